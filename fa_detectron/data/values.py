"""Values that annotation tools write in several ways, read by their meaning."""

import math
import re
import reprlib
import unicodedata
from typing import Any

_FALSE = frozenset(("", "false", "no", "n", "off", "none", "null", "unspecified"))  # labelImg: "Unspecified"
_TRUE = frozenset(("true", "yes", "y", "on"))
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
_SEPARATORS = re.compile(r"(?<=[^\W_])[\s_-]+(?=[^\W\d_])|(?<=[^\W\d_])[\s_-]+(?=\d)")
# Cyrillic and Greek letters that look like Latin ones.
_LATIN = str.maketrans(
    "АВЕЅІЈКМНОРСТХУаеѕіјорсухΑΒΕΖΗΙΚΜΝΟΡΤΥΧο",  # noqa: RUF001
    "ABESIJKMHOPCTXYaesijopcyxABEZHIKMNOPTYXo",
)


def short(value: Any) -> str:
    """A value, abbreviated for a message."""
    return reprlib.repr(value)


def number(value: Any) -> float | None:
    """The float of a finite number or its text; None for anything else."""
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            result = float(value)
        except (ValueError, OverflowError):
            return None
        return result if math.isfinite(result) else None
    return None


def flag(value: Any) -> bool | None:
    """A truth value of booleans, the numbers 0 and 1, their texts, and words such as "no"; None is False.

    Returns:
        None if the value is neither.
    """
    if value is None or value is True or value is False:
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in _FALSE | _TRUE:
        return value.strip().lower() in _TRUE
    return {0.0: False, 1.0: True}.get(number(value))


def identity(value: Any) -> int | str | None:
    """The key by which ids are compared: "1", 1 and 1.0 are the same id, "01" is another.

    Returns:
        An int for whole numbers, a str for any other text, None for anything that cannot be an id.
    """
    if type(value) is int:  # nearly always, and there are millions
        return value
    if isinstance(value, str):
        return int(value) if _INTEGER.fullmatch(value.strip()) else value.strip() or None
    return int(value) if isinstance(value, float) and value.is_integer() else None


def class_name(value: Any) -> str:
    """A class name from a text or a number, in Unicode NFC, without byte-order mark and surrounding spaces.

    Returns:
        "" if there is no name.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    return unicodedata.normalize("NFC", str(value)).replace("\ufeff", "").strip()


def lookalike_key(name: str) -> str:
    """Equal for names that differ only in case, in the separators of their words or in letters that look alike.

    Names of one character, such as those of handwritten letters, keep their case.
    """
    text = unicodedata.normalize("NFKC", name).translate(_LATIN)
    text = _SEPARATORS.sub("", text)
    return text.casefold() if len(text) > 1 else text

"""Text files as other programs write them."""

import codecs

from fa_detectron.errors import UserError

_MOST_BYTES = 64 << 20
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: str) -> str:
    """The content of a UTF-8 file, or of a UTF-16 file with a byte-order mark; the mark itself is left out.

    Raises:
        UserError: it cannot be read, is longer than 64 MiB, or is neither.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > _MOST_BYTES:
        raise UserError(f"{path}: more than {_MOST_BYTES >> 20} MiB")
    try:
        text = data.decode("utf-16" if data.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: the encoding is neither UTF-8 nor UTF-16; save the file as UTF-8") from None
    if "\0" in text:
        raise UserError(f"{path}: not a text file (it holds NUL characters); save it as UTF-8")
    return text

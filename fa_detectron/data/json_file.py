"""JSON files of annotation tools."""

import json
from typing import Any

from fa_detectron.errors import UserError


def read_json(path: str) -> Any:
    """The content of a JSON file in UTF-8, UTF-16 or UTF-32.

    Raises:
        UserError: it cannot be read, or is not JSON.
    """
    try:
        with open(path, "rb") as stream:
            return json.loads(stream.read())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})") from error
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error


def objects(value: Any) -> list[dict[str, Any]]:
    """The JSON objects in a list; none where it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []

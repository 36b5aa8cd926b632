"""Files that are either absent or whole."""

import json
import os
import tempfile
from typing import Any


def write_json_atomically(path: str, content: Any) -> None:
    """Write ``content`` as JSON to ``path`` through a temporary file in the same folder, made where absent."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(content, stream, allow_nan=False)
        # mkstemp makes the file private to its owner; a run folder is commonly shared.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise

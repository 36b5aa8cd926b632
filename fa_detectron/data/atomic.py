"""JSON files that are either absent or whole."""

import json
import os
from typing import Any

from fa_detectron.files import atomic_write


def write_json_atomically(path: str, content: Any) -> None:
    """Write ``content`` as JSON to ``path``, whose folder is made where absent."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with atomic_write(path) as stream:
        json.dump(content, stream, allow_nan=False)

"""Files that are read within bounds, and written whole or not at all."""

import glob
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from fa_detectron.errors import UserError


def read_bounded(path: str, most: int, name: str = "") -> bytes:
    """The content of a file of at most ``most`` bytes.

    Args:
        name: how messages call it; "" is the path.

    Raises:
        UserError: it cannot be read, or is longer.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"{name or path}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > most:
        raise UserError(f"{name or path}: more than {most >> 20} MiB")
    return data


@contextmanager
def atomic_write(path: str, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside ``path`` and move it there once the block ends without an exception.

    Args:
        path: the file to make or replace.
        mode: "w" (UTF-8 text) or "wb".

    Raises:
        OSError: the file cannot be written; its ``filename`` is ``path``, or the folder's or temporary file's.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(os.path.dirname(path) or ".")
    except OSError as error:
        if error.errno and error.filename is None:  # a full disk's
            error.filename = path
        raise
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def write_json(path: str, content: Any) -> None:
    """Write ``content`` as JSON to ``path``, completely or not at all. Makes the folder where necessary."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with atomic_write(path) as stream:
        json.dump(content, stream, allow_nan=False)


def _sync_folder(path: str) -> None:
    """Make a new name in the folder survive a power cut, too."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_unfinished(folder: str) -> None:
    """Remove what processes that were killed inside :func:`atomic_write` have left in ``folder``."""
    for path in glob.glob(f"{glob.escape(folder)}/*.[0-9]*.tmp"):
        os.unlink(path)

"""A data set on disk, and the names of its files."""

import os
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from fa_detectron.errors import UserError


class Source(NamedTuple):
    """What --train and --val name."""

    path: str  # absolute: the file or folder that the format's reader reads
    split: str  # "" if the path alone determines it
    format: str  # a key of fa_detectron.data.sources.formats.FORMATS

    def __str__(self) -> str:
        return f"{self.path}:{self.split}" if self.split else self.path


class NoSuchSplit(UserError):
    """The set exists, but has no split of that name."""


LINKS = "Follow links with --follow-links (DATASETS.FOLLOW_LINKS), or copy the files into the set's folder."


def is_inside(name: str) -> bool:
    """Whether a relative name stays below the folder it is joined to; see :func:`links_outside` about links."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


class AnyCase:
    """Finds files and folders regardless of case. Each folder is listed once."""

    def __init__(self) -> None:
        self._listings: dict[str, dict[str, str]] = {}

    def find(self, path: str) -> str:
        """The path if it exists, else an existing path that differs in case; "" if there is none."""
        if os.path.exists(path):
            return path
        head, tail = os.path.split(path)
        if head == path or not (folder := self.find(head)):
            return ""
        name = self._names(folder).get(tail.casefold())
        return os.path.join(folder, name) if name else ""

    def _names(self, folder: str) -> dict[str, str]:
        if folder not in self._listings:
            try:
                names = os.listdir(folder)
            except OSError:  # a file, or not permitted
                names = []
            self._listings[folder] = {name.casefold(): name for name in sorted(names, reverse=True)}
        return self._listings[folder]


def is_file_name(name: Any) -> bool:
    """Whether the file system can be asked for it: a text without NUL, and without halves of characters as in JSON."""
    try:
        return isinstance(name, str) and bool(name) and b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def is_below(path: str, folder: str) -> bool:
    """Whether a normalized absolute path is a folder or lies below it; the file system is not asked."""
    return os.path.join(path, "").startswith(os.path.join(folder, ""))


def links_outside(root: str, names: Iterable[str]) -> set[str]:
    """Those of the relative ``names`` that a link takes out of the folder ``root``; ``root`` itself may be a link."""
    real = os.path.join(os.path.realpath(root), "")
    return {name for name in names if not os.path.realpath(real + name).startswith(real)}

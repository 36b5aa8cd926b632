"""From the image names that annotations hold to files on this machine."""

import os
import unicodedata
from collections import defaultdict
from functools import cached_property
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from .findings import Findings
from .paths import LINKS, is_inside, links_outside


class ImageFinder:
    """Finds the image files of one set.

    A name that leads to a file below one of ``folders`` is that file. Any other name (with backslashes, with %20, an
    absolute path of another machine, ``../../media/x.jpg``, a URL) is matched by its last component against all files
    below ``search_root``; of several files with that name, the one that shares most of the folders before it. Such a
    match is a guess and counted. Where two files match equally well, the name is refused with both.

    Args:
        folders: absolute folders that names are relative to, the first that has the file wins.
        search_root: absolute folder below which names are looked for that lead nowhere.
        set_root: absolute; links may lead anywhere below it.
        follow_links: links may lead anywhere.
    """

    def __init__(self, folders: list[str], search_root: str, set_root: str, follow_links: bool = False) -> None:
        self._folders, self._search_root, self._set_root = folders, search_root, set_root
        self._follow_links = follow_links
        self.guessed: list[str] = []
        self.ambiguous: list[str] = []
        self.outside: list[str] = []

    def find(self, name: str) -> str:
        """The absolute path of the image; "" where it is ambiguous or a link leads out of the set.

        A name that leads nowhere gives its path below the first folder: the check of the images reports it.
        """
        direct = self._direct(name)
        if direct is None:
            matches = self._matches(name)
            if len(matches) > 1:
                self.ambiguous.append(f"{name}: {' and '.join(matches)}")
                return ""
            if not matches:
                return os.path.join(self._folders[0], _parts(name)[-1] if _parts(name) else "")
            direct = matches[0]
            self.guessed.append(f"{name}: {direct}")
        if not self._follow_links and self._leaves(direct):
            self.outside.append(name)
            return ""
        return direct

    def report(self, path: str, findings: Findings) -> None:
        """Say what was guessed, and refuse what is ambiguous or leads out of the set ``path``."""
        findings.note(path, "images found by their file name alone, for their path leads nowhere here", self.guessed)
        findings.refuse(
            path,
            f"images whose path leads nowhere, with several files of that name below {self._search_root}",
            self.ambiguous,
            "Name the folder that holds just one of them with --images (DATASETS.IMAGES_ROOT).",
        )
        findings.refuse(path, f"images that a link takes out of {self._set_root}", self.outside, LINKS)

    def _direct(self, name: str) -> str | None:
        for text in dict.fromkeys((name, unquote(name))):
            if is_inside(text):
                for folder in self._folders:
                    if os.path.isfile(os.path.join(folder, text)):
                        return os.path.join(folder, text)
        return None

    def _leaves(self, path: str) -> bool:
        """Whether a link leads the file out of both its own folder and the set's."""
        folder, name = os.path.split(path)
        return bool(links_outside(folder, [name])) and bool(
            links_outside(self._set_root, [os.path.relpath(os.path.realpath(path), os.path.realpath(self._set_root))])
        )

    def _matches(self, name: str) -> list[str]:
        parts = _parts(name)
        best: list[str] = []
        most = 0
        for path in self._files.get(_key(parts[-1]), ()) if parts else ():
            own = PurePosixPath(path).parts
            shared = 0
            while shared < min(len(own), len(parts)) and _key(own[-1 - shared]) == _key(parts[-1 - shared]):
                shared += 1
            if shared > most:
                best, most = [], shared
            if shared == most:
                best.append(path)
        return best

    @cached_property
    def _files(self) -> dict[str, list[str]]:
        """All files below the search root, by their name's key."""
        found: dict[str, list[str]] = defaultdict(list)
        for folder, folders, names in os.walk(self._search_root):
            folders.sort()
            for name in sorted(names):
                found[_key(name)].append(os.path.join(folder, name))
        return found


def _key(name: str) -> str:
    """Names that differ only in case or in Unicode's normal form are one: file systems disagree about both."""
    return unicodedata.normalize("NFC", name).casefold()


def _parts(name: str) -> list[str]:
    """The components of a path or URL that may be a Windows one; a query such as "?d=folder/x.jpg" is a path itself."""
    try:
        url = urlsplit(name)
    except ValueError:
        url = None
    if url is not None and len(url.scheme) > 1:
        name = url.path
    name = name.rpartition("?d=")[2] if "?d=" in name else name
    return [part for part in unquote(name).replace("\\", "/").split("/") if part not in ("", ".", "..")]

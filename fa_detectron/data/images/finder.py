"""From the image names in annotations to files on this machine."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from fa_detectron.data.findings import Findings
from fa_detectron.data.sources.source import LINKS, is_below
from fa_detectron.errors import UserError


class ImageFinder:
    """Finds the image files of one set.

    A name that leads from one of ``folders`` to a file below that folder or ``search_root`` is that file. Any other
    name (with backslashes, with %20, in another case, an absolute path of another machine, ``../../media/x.jpg``, a
    URL) is matched by its last component against all files below ``search_root``. Of several such files, the one that
    shares the most folders counts. Such a match is a guess, and reported. If two files match equally well, the name is
    refused.

    Folders are listed once instead of testing each file: 100,000 images take a second.

    Args:
        folders: absolute folders to which names are relative.
        search_root: absolute folder that is searched for other names; links may lead anywhere inside it.
        follow_links: links may lead anywhere.
        sample: some names of the set. The folder that has most of them becomes the first of ``folders``. A name without
            a path is then searched there only, since the same name in the folder of another split is another image.
    """

    def __init__(
        self, folders: Sequence[str], search_root: str, follow_links: bool = False, sample: Sequence[str] = ()
    ) -> None:
        self._search_root, self._follow_links = search_root, follow_links
        self._listings: dict[str, dict[str, bool]] = {}
        self._real: dict[str, str] = {}
        self._indices: dict[str, dict[str, list[str]]] = {}
        hits = {folder: sum(bool(self._below(folder, name)) for name in sample) for folder in folders}
        self._folders = sorted(hits, key=lambda folder: -hits[folder])  # stable: the earlier one of equals
        self._known = any(hits.values())
        self._found, self._nowhere = False, ""
        self.guessed: list[str] = []
        self.ambiguous: list[str] = []
        self.outside: list[str] = []

    def find(self, name: str, *others: str) -> str:
        """The absolute path of the image; "" if it is ambiguous or a link leads out of the set.

        Args:
            name: as in the annotations.
            others: names to try if the ones before them lead nowhere.

        Returns:
            If no name leads anywhere, the path of ``name`` below the first folder, where there is no such file.
        """
        names = (name, *others)
        path = next(filter(None, map(self.direct, names)), "")
        if not path:
            guess = next(((text, found) for text in names if (found := self._matches(text))), None)
            if guess is None:
                self._nowhere = self._nowhere or name
                path = os.path.normpath(os.path.join(self._folders[0], name))
                inside = is_below(path, self._folders[0])
                return path if inside else os.path.join(self._folders[0], _components(name)[0][-1])
            text, matches = guess
            self._found = True
            if len(matches) > 1:
                self.ambiguous.append(f"{text}: {' and '.join(matches)}")
                return ""
            path = matches[0]
            self.guessed.append(f"{text}: {path}")
        self._found = True
        if not self._follow_links and self._leaves(path):
            self.outside.append(name)
            return ""
        return path

    def direct(self, name: str) -> str:
        """The file to which a name leads, as it is or with %20 and the like decoded; "" if there is none."""
        bare = self._known and "/" not in name
        for text in dict.fromkeys((name, unquote(name))):
            for folder in self._folders[:1] if bare else self._folders:
                if path := self._below(folder, text):
                    return path
        return ""

    def report(self, path: str, findings: Findings) -> None:
        """Report guesses, and refuse names that are ambiguous or lead out of the set ``path``.

        Raises:
            UserError: none of the names leads to a file; or something is refused and the findings are strict.
        """
        if self._nowhere and not self._found:
            there = [folder for folder in self._folders if self._listing(folder)] or self._folders[:1]
            raise UserError(
                f"{path}: its images (such as {self._nowhere!r:.200}) were not found; looked in {', '.join(there)} and "
                f"below {self._search_root}. Name their folder with --images (DATASETS.IMAGES_ROOT)."
            )
        findings.note(path, "images found by their file name only, since their path does not exist here", self.guessed)
        findings.refuse(
            path,
            f"images whose path does not exist, with several files of that name below {self._search_root}",
            self.ambiguous,
            "Name the folder that holds just one of them with --images (DATASETS.IMAGES_ROOT).",
        )
        findings.refuse(path, f"images that a link takes out of {self._search_root}", self.outside, LINKS)

    def _below(self, folder: str, name: str) -> str:
        """The path of a file, ``name`` relative to ``folder``; "" if there is none or it leads out."""
        path = os.path.normpath(os.path.join(folder, name))
        head, tail = os.path.split(path)
        inside = is_below(path, folder) or is_below(path, self._search_root)
        return path if inside and tail in self._listing(head) else ""

    def _listing(self, folder: str) -> dict[str, bool]:
        """The files (and links to anything) of a folder: whether each is a link."""
        if folder not in self._listings:
            try:
                with os.scandir(folder) as entries:
                    self._listings[folder] = {
                        entry.name: entry.is_symlink() for entry in entries if not entry.is_dir(follow_symlinks=False)
                    }
            except (OSError, ValueError):  # ValueError: names that no file system accepts
                self._listings[folder] = {}
        return self._listings[folder]

    def _leaves(self, path: str) -> bool:
        """Whether a link leads out of both the folder where the file was found and the set's folder."""
        folder, name = os.path.split(path)
        is_link = self._listing(folder).get(name, True)
        target = os.path.realpath(path) if is_link else os.path.join(self._realpath(folder), name)
        start = next((own for own in self._folders if is_below(path, own)), self._search_root)
        return not any(is_below(target, self._realpath(root)) for root in (start, self._search_root))

    def _realpath(self, folder: str) -> str:
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        return self._real[folder]

    def _matches(self, name: str) -> list[str]:
        """The files that share the most last components of the name."""
        best: list[str] = []
        most = 0
        for parts in _components(name):
            place = self._folders[0] if self._known and len(parts) == 1 else self._search_root
            for path in self._index(place).get(_key(parts[-1]), ()):
                own = PurePosixPath(path).parts
                shared = 0
                while shared < min(len(own), len(parts)) and _key(own[-1 - shared]) == _key(parts[-1 - shared]):
                    shared += 1
                if shared > most:
                    best, most = [], shared
                if shared == most and path not in best:
                    best.append(path)
        return best

    def _index(self, root: str) -> dict[str, list[str]]:
        """All files below a folder, by their name's key."""
        if root not in self._indices:
            found: dict[str, list[str]] = defaultdict(list)
            self._indices[root] = found
            for folder, folders, names in os.walk(root):
                folders.sort()
                for name in sorted(names):
                    found[_key(name)].append(os.path.join(folder, name))
        return self._indices[root]


def _key(name: str) -> str:
    """Equal for names that differ only in case or in Unicode normal form, about which file systems disagree."""
    return unicodedata.normalize("NFC", name).casefold()


def _components(name: str) -> list[tuple[str, ...]]:
    """The components of a path, maybe a Windows one, or URL, as written and with %20 and the like decoded.

    A query such as "?d=folder/x.jpg" (Label Studio's) is a path itself.
    """
    try:
        url = urlsplit(name)
    except ValueError:
        url = None
    if "?d=" in name:
        name = name.rpartition("?d=")[2]
    elif url is not None and len(url.scheme) > 1:
        name = url.path
    texts = dict.fromkeys((name, unquote(name)))
    split = [[part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")] for text in texts]
    return [tuple(parts) for parts in split if parts] or [("",)]

"""The images of an entry of a YOLO set: a folder or a list, here or where the set was made."""

import os
from typing import Any

from fa_detectron.data.findings import Findings
from fa_detectron.data.images.finder import ImageFinder
from fa_detectron.data.readers.files import read_text
from fa_detectron.data.readers.yolo.labels import label_files
from fa_detectron.data.sources.source import AnyCase, Source, is_below, is_file_name
from fa_detectron.data.sources.splits import is_image, split_names
from fa_detectron.errors import UserError


class Reach:
    """What may be read: files below the given folders, and with ``follow`` wherever links lead."""

    def __init__(self, roots: list[str], follow: bool) -> None:
        self._real = [os.path.join(os.path.realpath(root), "") for root in roots]
        self._follow = follow

    def __call__(self, path: str) -> bool:
        return self._follow or os.path.join(os.path.realpath(path), "").startswith(tuple(self._real))


class Search:
    """Finds the images of the entries of one split."""

    def __init__(self, source: Source, roots: list[str], reach: Reach, named: bool) -> None:
        self._source, self._roots, self._reach = source, roots, reach
        self._named = named  # the first root is from --images
        self.only_labelled = False
        self._any_case = AnyCase()
        self.outside: list[str] = []
        self._guessed: dict[str, str] = {}

    def images_of(self, entry: str, findings: Findings) -> dict[str, list[str]]:
        """The images of a folder or a .txt list, absolute, with the possible paths of their labels."""
        place = self._place(entry)
        if not place or not self._reach(place):
            raise UserError(
                f"{self._source.path}: {entry!r} leads out of {self._roots[-1]}. Name the folder of the data with "
                "--images (DATASETS.IMAGES_ROOT), or follow links with --follow-links (DATASETS.FOLLOW_LINKS)."
            )
        if os.path.isdir(place):
            away = entry if self._named else ""
            return {image: label_files(image, self._roots, away, place) for image in self._walk(place)}
        # Names are relative to a root or the list's folder. Links are checked here, as there may be two roots.
        finder = ImageFinder([*self._roots, os.path.dirname(place)], self._roots[0], follow_links=True)
        images = [finder.find(line.strip()) for line in read_text(place).splitlines() if line.strip()]
        finder.report(str(self._source), findings)
        self.outside += [image for image in images if image and not self._reach(image)]
        return {image: label_files(image, self._roots) for image in images if image and self._reach(image)}

    def report_guesses(self, description: str, splits: dict[str, Any], findings: Findings) -> None:
        """Report the entries that were found in another place than the one they name.

        Args:
            description: the file with the entries, or the set.
            splits: all entries of that file.

        Raises:
            UserError: another split was found in the same place.
        """
        for key in splits.keys() - set(split_names(self._source.split)) if self._guessed else ():
            for place in {self._find(other)[0] for other in entries_of(splits[key])} & {*self._guessed.values()}:
                raise UserError(
                    f"{description}: {self._source.split!r} and {key!r} do not exist, or mean the same folder {place}. "
                    "Correct them."
                )
        found = [f"{entry}: {place}" for entry, place in self._guessed.items()]
        findings.note(description, "entries that do not exist here, and what was used instead", found)

    def _place(self, entry: str) -> str:
        """The folder or list of an entry; "" if it is outside the roots."""
        place, is_guess = self._find(entry)
        if is_guess and place == self._roots[0]:
            self.only_labelled = bool(self._source.split)
        elif is_guess:
            self._guessed[entry] = place
        return place

    def _find(self, entry: str) -> tuple[str, bool]:
        """(path, whether it is a guess); the path that the entry names if there is nothing.

        Exports of Roboflow say "../train/images" and mean "train/images".
        """
        entry = os.path.expanduser(entry.replace("\\", "/"))
        direct = self._below(entry) + (self._below(entry[3:]) if entry.startswith("../") else [])
        guesses = [path for name in tails(entry) for path in self._below(name)]
        for path in filter(os.path.exists, (*direct, *guesses)):
            return path, path not in direct
        for path in filter(None, map(self._any_case.find, (*direct, *guesses))):
            return path, True
        if self._named and any(is_image(item.name) for item in _entries(self._roots[0])):
            return self._roots[0], True
        outside = not self._below(entry) and os.path.exists(os.path.join(self._roots[-1], entry))
        return (direct[0] if direct and not outside else ""), False

    def _below(self, name: str) -> list[str]:
        paths = [os.path.normpath(os.path.join(root, name)) for root in self._roots]
        return [path for path, root in zip(paths, self._roots) if is_below(path, root)]

    def _walk(self, place: str) -> list[str]:
        """The images below a folder; links to folders are followed once, those out of reach are recorded."""
        found, seen, waiting, links = [], set(), [place], []
        while waiting or links:  # links last: what has another path in the set keeps that one
            folder = (waiting or links).pop()
            real = os.path.realpath(folder)
            if not self._reach(folder):
                self.outside.append(folder)
            elif real not in seen:
                seen.add(real)
                for item in _entries(folder):
                    if os.path.isdir(item.path):
                        (links if item.is_symlink() else waiting).append(item.path)
                    elif is_image(item.name):
                        reached = not item.is_symlink() or self._reach(item.path)
                        (found if reached else self.outside).append(item.path)
        return found


def _entries(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None


def entries_of(value: Any) -> list[str]:
    """The folders and lists that a key of a data.yaml names."""
    return [entry for entry in (value if isinstance(value, list) else [value]) if is_file_name(entry)]


def tails(entry: str) -> list[str]:
    """The possible paths below the set's folder of an entry from another machine, the longest first."""
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return [name for start in range(len(parts)) for name in _other_names("/".join(parts[start:]))]


def _other_names(tail: str) -> list[str]:
    """A path, and the same path with other names of the validation split."""
    parts = tail.split("/")
    changed = [
        "/".join([*parts[:i], name, *parts[i + 1 :]]) for i, part in enumerate(parts) for name in split_names(part)
    ]
    return list(dict.fromkeys([tail, *changed]))

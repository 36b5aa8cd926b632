"""The annotation files in a folder, their formats, and which one belongs to a split."""

import os
import re
from typing import NamedTuple

from fa_detectron.data.sources.formats import FORMATS, format_of
from fa_detectron.data.sources.outline import Glance, glance
from fa_detectron.data.sources.source import NoSuchSplit, links_outside
from fa_detectron.data.sources.splits import is_name_of, is_split
from fa_detectron.errors import UserError

SUFFIXES = (".json", ".xml", ".csv")
_MANY = 20  # files of one suffix in a folder; if these hold one image each, the rest is not read


class AnnotationFile(NamedTuple):
    path: str
    format: str  # a key of FORMATS, "" for none
    outline: Glance


def outline_file(path: str) -> AnnotationFile:
    try:
        outline = glance(path)
    except OSError:
        outline = Glance("text")
    return AnnotationFile(path, format_of(outline), outline)


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:  # not permitted: nothing to be found there
        return []


def folders_in(folder: str) -> list[str]:
    """The names of the folders in a folder that are not hidden."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(entry))
    except OSError:
        return []


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def annotation_files(folder: str) -> list[AnnotationFile]:
    """The files of a known format in a folder; only some of many files with one image each."""
    names = [name for name in _names(folder) if name.lower().endswith(SUFFIXES) and not name.startswith("._")]
    found = []
    for suffix in SUFFIXES:
        own = [name for name in names if name.lower().endswith(suffix)]
        items = _look_at(folder, own[:_MANY])
        if not any(FORMATS[item.format].per_image for item in items):
            items += _look_at(folder, own[_MANY:])
        found += items
    return found


def _look_at(folder: str, names: list[str]) -> list[AnnotationFile]:
    """Those of the files that have a known format; links out of the folder are ignored."""
    outside = links_outside(folder, names)
    paths = [os.path.join(folder, name) for name in names if name not in outside]
    return [item for path in paths if os.path.isfile(path) and (item := outline_file(path)).format]


def choose(folder: str, files: list[AnnotationFile], split: str) -> tuple[AnnotationFile, bool]:
    """Of several files with a set each, the one of a split, and whether its name says so ("train2017.json").

    Raises:
        NoSuchSplit: there are only files of other splits.
        UserError: several files qualify.
    """
    words = {file.path: re.findall("[a-z]+", os.path.basename(file.path).casefold()) for file in files}
    own = [file for file in files if any(is_name_of(word, split) for word in words[file.path])]
    chosen = own or [file for file in files if not any(map(is_split, words[file.path]))]
    if not chosen:
        names = ", ".join(os.path.basename(file.path) for file in files)
        raise NoSuchSplit(f"{folder}: has no split {split!r}; its annotations are {names}")
    if len(chosen) > 1:  # COCO has captions and keypoints beside them
        chosen = [file for file in chosen if "instances" in words[file.path]] or chosen
    if len(chosen) > 1:
        names = ", ".join(f"{file.path} ({FORMATS[file.format].title})" for file in chosen)
        raise UserError(f"{folder}: holds several files of annotations, name one of them: {names}")
    return chosen[0], bool(own)


def places_below(folder: str) -> dict[str, set[str]]:
    """The folders with annotation files, at and below ``folder``, and their formats."""
    found = {}
    for place, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if kinds := {file.format for file in annotation_files(place)}:
            found[place] = kinds
    return found

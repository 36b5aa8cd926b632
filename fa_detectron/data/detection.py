"""From what --train and --val name to the files of one split and their format, told by the content."""

import os
import re
import shlex

from fa_detectron.errors import UserError
from fa_detectron.plain_yaml import read_plain_yaml

from .formats import FORMATS, format_of, refusal_of
from .glance import Glance, glance
from .json_file import read_json
from .paths import NoSuchSplit, Source, is_inside, links_outside
from .splits import find_description, has_split, is_image, split_names

_TITLES = ", ".join(known.title for known in FORMATS.values())
PATH_HELP = f"the file or folder of the annotations ({_TITLES}), FOLDER:SPLIT for one split"
SPLITS = ("train", "val", "test")
_SUFFIXES = (".json", ".xml", ".csv")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
_MANY = 20  # files of a suffix in a folder, from which a few are looked at to tell whether each is an image's


def parse_source(text: str, default_split: str) -> Source:
    """Find out what a path names and in which format it is.

    Args:
        text: FILE, FOLDER, FILE:SPLIT or FOLDER:SPLIT, as given on the command line or in a config.
        default_split: of a set with splits that is named without one.

    Raises:
        NoSuchSplit: the set has no such split.
        UserError: no such file, or nothing in it that a reader knows.
    """
    path, split = locate(text)
    if split and not is_inside(split):
        raise UserError(f"{text}: the split must be a name, as in FOLDER:train")
    find = _of_folder if os.path.isdir(path) else _of_file
    return find(path, split or default_split, bool(split))


def splits_of(text: str) -> dict[str, Source]:
    """All of "train", "val" and "test" that a path has; the path as "train" where it has no splits.

    Raises:
        UserError: as :func:`parse_source`.
    """
    path, split = locate(text)
    if split:
        return {split: parse_source(text, split)}
    found = {}
    for name in SPLITS:
        try:
            source = parse_source(f"{path}:{name}", name)
        except NoSuchSplit:
            continue
        if _lists_split(source):
            found[name] = source
    return found or {"train": parse_source(path, "train")}


def _lists_split(source: Source) -> bool:
    """Whether a set whose splits are listed in a file or folder of its own has that of ``source``."""
    names = split_names(source.split)
    if source.format == "voc" and source.split:
        lists = os.path.join(source.path, "ImageSets", "Main")
        return any(os.path.isfile(os.path.join(lists, f"{name}.txt")) for name in names)
    description = source.path if os.path.isfile(source.path) else find_description(source.path)
    if source.format == "yolo" and description.lower().endswith((".yaml", ".yml")):
        content = read_plain_yaml(description)
        return isinstance(content, dict) and any(content.get(name) for name in names)
    return True


def locate(text: str) -> tuple[str, str]:
    """(absolute path, split) of a path as :func:`parse_source` takes it; the split is "" where it names none.

    Raises:
        UserError: no such file or folder.
    """
    path, split = os.path.abspath(os.path.expanduser(text)), ""
    if not os.path.exists(path) and ":" in text:
        head, _, split = text.rpartition(":")
        path = os.path.abspath(os.path.expanduser(head))
    if not os.path.exists(path):
        raise UserError(f"{text}: no such file or folder. Expected {PATH_HELP}.")
    return path, split


def _of_file(path: str, split: str, named: bool) -> Source:
    suffix = os.path.splitext(path)[1].lower()
    if suffix in (".yaml", ".yml") or os.path.basename(path) == "obj.data":
        return Source(path, split, "yolo")
    if suffix in _ARCHIVES:
        raise UserError(f"{path}: an archive; unpack it and name the folder")
    try:
        outline = glance(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    key = format_of(outline)
    if not key:
        if suffix == ".json":
            read_json(path)
        raise _unknown(path, refusal_of(outline))
    if FORMATS[key].per_image and key != "labelme":
        raise UserError(f"{path}: {FORMATS[key].title} of one image; name the folder of such files")
    return _source(path, key, outline, split, named)


def _source(path: str, key: str, outline: Glance, split: str, named: bool) -> Source:
    if key == "cvat" and "@subset" in outline.inner:
        return Source(path, split, key)
    if named:
        raise NoSuchSplit(f"{path}: {FORMATS[key].title} has no splits, so there is no {split!r}; name the file alone")
    return Source(path, "", key)


def _of_folder(folder: str, split: str, named: bool) -> Source:
    if os.path.isdir(os.path.join(folder, "ImageSets", "Main")):
        return Source(folder, split, "voc")
    if find_description(folder):
        return Source(folder, split, "yolo")
    parts = {name: os.path.join(folder, name) for name in _folders(folder)}
    for wanted in split_names(split):
        for name, part in parts.items():
            if name.casefold() == wanted.casefold() and (found := _files_of(part, split, False)):
                return found
    if has_split(folder, split):
        return Source(folder, split, "yolo")
    others = [
        name for name in parts if _is_split(name) and (_files_of(parts[name], name, False) or has_split(folder, name))
    ]
    if others:
        raise NoSuchSplit(f"{folder}: has no split {split!r}; it has {', '.join(others)} (FOLDER:SPLIT)")
    if found := _files_of(folder, split, named):
        return found
    if has_split(folder, ""):
        if named:
            raise NoSuchSplit(f"{folder}: has no split {split!r}; name the folder alone")
        return Source(folder, "", "yolo")
    raise _elsewhere(folder) or _unknown(folder, _refused_files(folder))


def _folders(folder: str) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _is_split(name: str) -> bool:
    return any(name.casefold() in split_names(split) for split in SPLITS)


def _files_of(folder: str, split: str, named: bool) -> Source | None:
    """The set that the annotation files of a folder make up, or those of its annotations/; None where there are none.

    Raises:
        NoSuchSplit: there are only files of other splits; or a split was ``named``, and the files know of none.
        UserError: several files could be meant.
    """
    places = [folder, *(os.path.join(folder, name) for name in _folders(folder) if name.casefold() == "annotations")]
    known = [item for place in places for item in _annotation_files(place)]
    sets = [item for item in known if not FORMATS[item[1]].per_image]
    if sets:
        return _source(*_choose(folder, sets, split, named))
    return _per_image_set(folder, split, named)


def _annotation_files(folder: str) -> list[tuple[str, str, Glance]]:
    """(file, format, outline) of the files in a folder; of many of one suffix that hold an image each, a few."""
    found = []
    for suffix in _SUFFIXES:
        names = sorted(name for name in _names(folder) if name.lower().endswith(suffix) and not name.startswith("._"))
        names = [name for name in names if not links_outside(folder, [name])]
        items = [_look(os.path.join(folder, name)) for name in names[:_MANY]]
        if len(names) > _MANY and not all(FORMATS[key].per_image for _, key, _ in items if key):
            items += [_look(os.path.join(folder, name)) for name in names[_MANY:]]
        found += [item for item in items if item[1]]
    return found


def _names(folder: str) -> list[str]:
    return [entry.name for entry in os.scandir(folder) if entry.is_file()]


def _look(path: str) -> tuple[str, str, Glance]:
    try:
        outline = glance(path)
    except OSError:
        outline = Glance("text")
    return path, format_of(outline), outline


def _choose(
    folder: str, sets: list[tuple[str, str, Glance]], split: str, named: bool
) -> tuple[str, str, Glance, str, bool]:
    """Of several annotation files the one of the split, told by its name ("instances_train2017.json")."""
    words = {path: set(re.findall("[a-z]+", os.path.basename(path).casefold())) for path, _, _ in sets}
    own = [item for item in sets if words[item[0]] & set(split_names(split))]
    neutral = [item for item in sets if not any(_is_split(word) for word in words[item[0]])]
    chosen = own or neutral
    if not chosen:
        names = ", ".join(os.path.basename(path) for path, _, _ in sets)
        raise NoSuchSplit(f"{folder}: has no split {split!r}; its annotations are {names}")
    if len(chosen) > 1:
        chosen = [item for item in chosen if "instances" in words[item[0]]] or chosen
    if len(chosen) > 1:
        names = ", ".join(f"{path} ({FORMATS[key].title})" for path, key, _ in chosen)
        raise UserError(f"{folder}: holds several files of annotations, name one of them: {names}")
    ((path, key, outline),) = chosen
    return path, key, outline, split, named and not own


def _per_image_set(folder: str, split: str, named: bool) -> Source | None:
    places = _places_below(folder)
    kinds = set().union(*places.values())
    if len(kinds) != 1 or not FORMATS[key := kinds.pop()].per_image:
        return None
    if named:
        raise NoSuchSplit(f"{folder}: has no split {split!r}; name the folder alone")
    return Source(folder, "", key)


def _places_below(folder: str) -> dict[str, set[str]]:
    """The folders, itself and below, that hold annotation files, and their formats."""
    found = {}
    for place, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if kinds := {key for _, key, _ in _annotation_files(place)}:
            found[place] = kinds
    return found


def _elsewhere(folder: str) -> UserError | None:
    places = [
        f"  {place} ({', '.join(sorted(FORMATS[kind].title for kind in kinds))})"
        for place, kinds in _places_below(folder).items()
    ]
    if not places:
        return None
    more = [f"  ... and {len(places) - 10} more"] if len(places) > 10 else []
    return UserError(
        f"{folder}: not one set of annotations; name one of those below it:\n" + "\n".join(places[:10] + more)
    )


def _refused_files(folder: str) -> str:
    """What is in a folder instead of annotations with boxes, in words; "" where there is nothing that is known."""
    for place, _, names in os.walk(folder):
        for name in sorted(names):
            if name.lower().endswith((".tfrecord", ".record")):
                return f"TFRecord files ({os.path.join(place, name)}); export the set as COCO"
            if name.lower().endswith(_SUFFIXES) and not links_outside(place, [name]):
                if text := refusal_of(_look(os.path.join(place, name))[2]):
                    return f"{text} ({os.path.join(place, name)})"
    if all(is_image(name) for _, _, names in os.walk(folder) for name in names):
        return "images alone (masks hold no boxes): the file of their annotations is missing"
    return ""


def _unknown(path: str, what: str) -> UserError:
    if what:
        return UserError(f"{path}: {what}")
    looked_for = "\n".join(f"  {known.title}: {known.looked_for}" for known in FORMATS.values())
    return UserError(
        f"{path}: no annotations in a format that is known. Looked for:\n{looked_for}\n"
        "Datumaro converts many other formats; install it into an environment of its own (it needs other versions):\n"
        "  python -m venv datumaro && datumaro/bin/pip install datumaro && datumaro/bin/datum convert "
        f"-i {shlex.quote(path)} -f coco_instances -o converted -- --save-media\n"
        "and name the folder 'converted'."
    )

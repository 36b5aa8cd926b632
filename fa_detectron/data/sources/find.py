"""From a path of --train or --val to the files of one split, and their format by their content."""

import os
import shlex

from fa_detectron.data.readers.csv_columns import csv_splits, csv_table, find_columns
from fa_detectron.data.readers.files import read_json
from fa_detectron.data.readers.voc_layout import has_image_sets, split_list, split_xml_folder, voc_splits, xml_folder
from fa_detectron.data.sources.folders import (
    SUFFIXES,
    AnnotationFile,
    annotation_files,
    choose,
    folders_in,
    outline_file,
    places_below,
)
from fa_detectron.data.sources.formats import FORMATS, refusal_of
from fa_detectron.data.sources.outline import cvat_subsets
from fa_detectron.data.sources.source import NoSuchSplit, Source, is_inside, links_outside
from fa_detectron.data.sources.splits import (
    find_description,
    has_split,
    is_image,
    is_name_of,
    is_split,
    read_description,
    split_names,
    usual_description,
    yolo_splits,
)
from fa_detectron.errors import UserError

_TITLES = ", ".join(known.title for known in FORMATS.values())
PATH_HELP = f"the file or folder of the annotations ({_TITLES}), FOLDER:SPLIT for one split"
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")


def parse_source(text: str, default_split: str) -> Source:
    """Find the set that a path names, and its format.

    Args:
        text: FILE, FOLDER, FILE:SPLIT or FOLDER:SPLIT, as given on the command line or in a config.
        default_split: the split of a set with splits that is named without one.

    Raises:
        NoSuchSplit: the set has no such split.
        UserError: no such file, or no known format.
    """
    path, split = locate(text)
    if split and not is_inside(split):
        raise UserError(f"{text}: the split must be a name, as in FOLDER:train")
    find = _of_folder if os.path.isdir(path) else _of_file
    return find(path, split or default_split, bool(split))


def splits_of(text: str) -> dict[str, Source]:
    """Those of "train", "val" and "test" that a path has; the path as "train" if it has no splits.

    Raises:
        UserError: as :func:`parse_source`.
    """
    path, split = locate(text)
    if split:
        return {split: parse_source(text, split)}
    found = {}
    for name in ("train", "val", "test"):
        if source := _split_of(path, name):
            found[name] = source
    return found or {"train": parse_source(path, "train")}


def validation_split(text: str) -> Source | None:
    """The validation split of the set that ``text`` names, or of which it names another split; None without one."""
    path, split = locate(text)
    if split in split_names("val"):
        return None
    return _split_of(path, "val")


def _split_of(path: str, split: str) -> Source | None:
    try:
        source = parse_source(f"{path}:{split}", split)
    except NoSuchSplit:
        return None
    return source if _lists_split(source) else None


def _lists_split(source: Source) -> bool:
    """Whether a set that lists its splits in a file or folder has the split of ``source``."""
    if source.format == "voc" and source.split:
        return bool(split_list(source.path, source.split) or split_xml_folder(source.path, source.split))
    description = source.path if os.path.isfile(source.path) else find_description(source.path)
    if source.format == "yolo" and description:
        content = read_description(description)
        return any(content.get(name) for name in split_names(source.split))
    return True


def locate(text: str) -> tuple[str, str]:
    """(absolute path, split) of a path as of :func:`parse_source`; the split is "" if it names none.

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
    file = outline_file(path)
    if not file.format:
        if suffix == ".json":
            read_json(path)
        raise _unknown(path, refusal_of(file.outline))
    if FORMATS[file.format].per_image and file.format != "labelme":
        raise UserError(f"{path}: {FORMATS[file.format].title} of one image; name the folder of such files")
    return _source(file, split, named)


def _source(file: AnnotationFile, split: str, named: bool) -> Source:
    """The set in a file that is not named after the split."""
    path, key = file.path, file.format
    if key == "cvat" and "@subset" in file.outline.inner:
        subsets = sorted(cvat_subsets(path))
        if subsets != ["default"]:  # that of tasks without one
            if any(is_name_of(name, split) for name in subsets):
                return Source(path, split, key)
            raise NoSuchSplit(f"{path}: has no subset {split!r}; it has {', '.join(subsets)} (FILE.xml:SUBSET)")
    if key == "csv" and "split" in find_columns(file.outline.keys) and (names := csv_splits(*csv_table(path))):
        if any(is_name_of(name, split) for name in names):
            return Source(path, split, key)
        raise NoSuchSplit(f"{path}: has no split {split!r}; it has {', '.join(names)} (FILE.csv:SPLIT)")
    if named:
        raise NoSuchSplit(f"{path}: {FORMATS[key].title} has no splits, so there is no {split!r}; name the file alone")
    return Source(path, "", key)


def _of_folder(folder: str, split: str, named: bool) -> Source:
    if has_image_sets(folder):
        return Source(folder, split, "voc")
    if usual_description(folder):
        return Source(folder, split, "yolo")
    for name in folders_in(folder):
        part = os.path.join(folder, name)
        if is_name_of(name, split) and (found := _set_file(part, split, False) or _per_image_set(part)):
            return found
    if found := _set_file(folder, split, named):
        return found
    if split_list(folder, split) or _voc_folder(split_xml_folder(folder, split)):
        return Source(folder, split, "voc")
    if find_description(folder) or has_split(folder, split):
        return Source(folder, split, "yolo")
    if others := _other_splits(folder):
        raise NoSuchSplit(f"{folder}: has no split {split!r}; it has {', '.join(others)} (FOLDER:SPLIT)")
    found = _per_image_set(folder) or (Source(folder, "", "yolo") if has_split(folder, "") else None)
    if found and named:
        raise NoSuchSplit(f"{folder}: has no split {split!r}; name the folder alone")
    if found:
        return found
    raise _elsewhere(folder) or _unknown(folder, _refused_files(folder))


def _other_splits(folder: str) -> list[str]:
    parts = {name: os.path.join(folder, name) for name in folders_in(folder) if is_split(name)}
    found = [name for name, part in parts.items() if _set_file(part, name, False) or _per_image_set(part)]
    return list(dict.fromkeys(found + voc_splits(folder) + yolo_splits(folder)))


def _voc_folder(folder: str) -> bool:
    return bool(folder) and {file.format for file in annotation_files(folder)} == {"voc"}


def _set_file(folder: str, split: str, named: bool) -> Source | None:
    """The file of a whole set in a folder or in its annotations/; None if there is none.

    Raises:
        NoSuchSplit: there are only files of other splits; or a split was ``named``, and the file has none.
        UserError: several files qualify.
    """
    places = [folder, *(os.path.join(folder, name) for name in folders_in(folder) if name.casefold() == "annotations")]
    files = [file for place in places for file in annotation_files(place) if not FORMATS[file.format].per_image]
    if not files:
        return None
    file, is_own = choose(folder, files, split)
    return _source(file, split, named and not is_own)


def _per_image_set(folder: str) -> Source | None:
    """The set of files with one image each in a folder and below; None unless all files are of one such format."""
    kinds = set().union(*places_below(folder).values())
    key = kinds.pop() if len(kinds) == 1 else ""
    if key == "voc" and not xml_folder(folder):  # they lie further down
        return None
    return Source(folder, "", key) if key and FORMATS[key].per_image else None


def _elsewhere(folder: str) -> UserError | None:
    found = places_below(folder)
    places = [
        f"  {place} ({', '.join(sorted(FORMATS[kind].title for kind in kinds))})" for place, kinds in found.items()
    ]
    if not places:
        return None
    more = [f"  ... and {len(places) - 10} more"] if len(places) > 10 else []
    what = "not one set of annotations; name one of those below it:"
    if folder in found:  # naming it again would not help
        what = "holds annotations in several formats; leave one of them in it and move the files of the others away:"
    return UserError(f"{folder}: {what}\n" + "\n".join(places[:10] + more))


def _refused_files(folder: str) -> str:
    """What a folder has instead of annotations with boxes; "" if nothing is recognised."""
    for place, _, names in os.walk(folder):
        outside = links_outside(place, [name for name in names if name.lower().endswith(SUFFIXES)])
        for name in sorted(names):
            if name.lower().endswith((".tfrecord", ".record")):
                return f"TFRecord files ({os.path.join(place, name)}); export the set as COCO"
            if name.lower().endswith(SUFFIXES) and name not in outside:
                if text := refusal_of(outline_file(os.path.join(place, name)).outline):
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

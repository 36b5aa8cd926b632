"""What --train, --val and --images name, and where images lie."""

import os
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

from fa_detectron.errors import UserError

from .splits import find_description, has_split, read_description, split_names, splits_of


class Source(NamedTuple):
    """A data set on disk: what --train and --val name."""

    path: str  # absolute: a COCO .json, a Pascal VOC folder, or a YOLO folder or .yaml
    split: str  # "" where the path alone says it: COCO, and YOLO folders without splits
    format: str  # "coco", "voc" or "yolo"

    def __str__(self) -> str:
        return f"{self.path}:{self.split}" if self.split else self.path


FORMATS = "a COCO .json file, a Pascal VOC folder or a YOLO data.yaml or folder (as FOLDER or FOLDER:SPLIT)"


def parse_source(text: str, default_split: str) -> Source:
    """Read ``FILE.json``, ``FOLDER``, ``FOLDER:SPLIT``, ``FILE.yaml`` or ``FILE.yaml:SPLIT``.

    Args:
        text: as given on the command line or in a config.
        default_split: of a folder or a .yaml that is named without one.
    """
    path, split = os.path.abspath(os.path.expanduser(text)), ""
    if not os.path.exists(path) and ":" in text:
        head, _, split = text.rpartition(":")
        path = os.path.abspath(os.path.expanduser(head))
    if not os.path.exists(path):
        raise UserError(f"{text}: no such file or folder. Expected {FORMATS}.")
    if split and not is_inside(split):
        raise UserError(f"{text}: the split must be a name, as in FOLDER:train")
    if os.path.isfile(path):
        suffix = os.path.splitext(path)[1].lower()
        if suffix == ".json" and not split:
            return Source(path, "", "coco")
        if suffix in (".yaml", ".yml") or os.path.basename(path) == "obj.data":
            return Source(path, split or default_split, "yolo")
        raise UserError(f"{path}: expected {FORMATS}")
    if os.path.isdir(os.path.join(path, "ImageSets", "Main")):
        return Source(path, split or default_split, "voc")
    if find_description(path) or has_split(path, split or default_split):
        return Source(path, split or default_split, "yolo")
    found = splits_of(path)
    if found:
        raise UserError(
            f"{path}: no split {split or default_split!r}; it has {', '.join(found)}: name one as FOLDER:SPLIT"
        )
    if not split and has_split(path, ""):
        return Source(path, "", "yolo")
    if not split and any(name.lower().endswith(".xml") for name in _files_around(path)):
        return Source(path, "", "voc")
    raise UserError(
        f"{text}: neither a Pascal VOC folder (no ImageSets/Main and no XML files in it) nor a YOLO one (no data.yaml, "
        "no images/ and labels/). For COCO data name the .json file, and the folder of its images with --images."
    )


def validation_split(source: Source) -> Source | None:
    """The validation split of the set that ``source`` is another split of; None where it has none."""
    names = split_names("val")
    if not source.split or source.split in names:
        return None
    if source.format == "voc":
        found = any(os.path.isfile(os.path.join(source.path, "ImageSets", "Main", f"{name}.txt")) for name in names)
    else:
        description = source.path if os.path.isfile(source.path) else find_description(source.path)
        content = read_description(description) if description else {}
        found = any(content.get(name) for name in names) or (not description and bool(has_split(source.path, "val")))
    return source._replace(split="val") if found else None


def _files_around(folder: str) -> list[str]:
    """What is in a folder, and in its annotations/."""
    names = os.listdir(folder)
    inner = [os.path.join(folder, name) for name in names if name.casefold() == "annotations"]
    return [*names, *(name for path in inner if os.path.isdir(path) for name in os.listdir(path))]


LINKS = "Follow links with --follow-links (DATASETS.FOLLOW_LINKS), or copy the files into the set's folder."


def is_inside(name: str) -> bool:
    """Whether a relative name stays below the folder it is joined to (of links see :func:`links_outside`)."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def links_outside(root: str, names: Iterable[str]) -> set[str]:
    """Those of the relative ``names`` that a link takes out of the folder ``root``; ``root`` itself may be a link."""
    real = os.path.join(os.path.realpath(root), "")
    return {name for name in names if not os.path.realpath(real + name).startswith(real)}

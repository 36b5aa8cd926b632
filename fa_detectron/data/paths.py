"""What --train, --val and --images name, and where images lie."""

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fa_detectron.errors import UserError


class Source(NamedTuple):
    """A COCO JSON file (split "") or a Pascal VOC folder with its split."""

    path: str  # absolute
    split: str

    def __str__(self) -> str:
        return f"{self.path}:{self.split}" if self.split else self.path


def parse_source(text: str, default_split: str) -> Source:
    """Read ``FILE.json``, ``FOLDER`` or ``FOLDER:SPLIT``.

    Args:
        text: as given on the command line or in a config.
        default_split: of a folder that is named without one.
    """
    path, split = os.path.abspath(os.path.expanduser(text)), ""
    if not os.path.exists(path) and ":" in text:
        head, _, split = text.rpartition(":")
        path = os.path.abspath(os.path.expanduser(head))
    if os.path.isfile(path) and not split:
        if not path.lower().endswith(".json"):
            raise UserError(f"{path}: expected a COCO .json file or a Pascal VOC folder")
        return Source(path, "")
    if os.path.isdir(path):
        if not os.path.isdir(os.path.join(path, "ImageSets", "Main")):
            raise UserError(
                f"{path}: not a Pascal VOC folder (no ImageSets/Main in it). "
                "For COCO data name the .json file, and the folder of its images with --images."
            )
        if not is_inside(split or default_split):
            raise UserError(f"{text}: the split must be the name of a file in ImageSets/Main")
        return Source(path, split or default_split)
    raise UserError(
        f"{text}: no such file or folder. Expected a COCO .json file, or a Pascal VOC folder as FOLDER or FOLDER:SPLIT."
    )


def is_inside(name: str) -> bool:
    """Whether a relative name stays below the folder it is joined to (links below it may lead anywhere)."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _unique(folders: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(folders))


def find_coco_images(json_path: str, images_root: str, names: list[str]) -> str:
    """The folder that holds the images of a COCO JSON file.

    Looked for in ``images_root`` or, where that is empty, around the JSON file: the folder itself, its
    images/, JPEGImages/ and the one named like the file (instances_train2017.json: train2017/), then the same one
    folder up. The folder with the most of ``names`` (a sample of the files) wins, the earlier one of equals.
    """
    stem = Path(json_path).stem
    short = stem[len("instances_") :] if stem.startswith("instances_") else stem
    below = ["", "images", "JPEGImages", short, f"images/{short}"]
    if images_root:
        bases = [Path(os.path.abspath(os.path.expanduser(images_root)))]
        if not bases[0].is_dir():
            raise UserError(f"--images (DATASETS.IMAGES_ROOT): no such folder: {bases[0]}")
    else:
        bases = [Path(json_path).parent, Path(json_path).parent.parent]
    candidates = _unique(base / name for base in bases for name in below)
    hits = [sum((folder / name).is_file() for name in names) for folder in candidates]
    if not any(hits):
        looked = ", ".join(str(folder) for folder in candidates if folder.is_dir())
        raise UserError(
            f"{json_path}: its images (such as {names[0]!r}) were not found; looked in {looked}. "
            "Name their folder with --images (DATASETS.IMAGES_ROOT)."
        )
    return str(candidates[hits.index(max(hits))])

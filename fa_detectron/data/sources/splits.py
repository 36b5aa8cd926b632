"""The names of splits, and where a YOLO folder has them."""

import os
from typing import Any

from fa_detectron.data.readers.files import read_text
from fa_detectron.data.sources.source import AnyCase
from fa_detectron.errors import UserError
from fa_detectron.plain_yaml import read_plain_yaml

IMAGE_SUFFIXES = frozenset(".bmp .gif .jfif .jpe .jpeg .jpg .mpo .pgm .png .pnm .ppm .tif .tiff .webp".split())
LABEL_FOLDERS = ("labels", "labelTxt")  # the second one holds DOTA's rows
_VALIDATION = ("val", "valid", "validate", "validation")
SPLIT_NAMES = ("train", *_VALIDATION, "test")


def split_names(split: str) -> tuple[str, ...]:
    """The names of a split, the given one first: val, valid, validate and validation are the same."""
    return tuple(dict.fromkeys((split, *_VALIDATION))) if split in _VALIDATION else (split,)


def is_name_of(name: str, split: str) -> bool:
    """Whether a folder, a subset or a word in a file name is a name of a split; case does not matter."""
    return name.casefold() in {known.casefold() for known in split_names(split)}


def is_split(name: str) -> bool:
    """Whether a name is a usual name of any split; case does not matter."""
    return name.casefold() in SPLIT_NAMES


def is_image(name: str) -> bool:
    """Whether a file name is that of an image, and not of a hidden file ("._a.jpg" of macOS)."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not os.path.basename(name).startswith(".")


def usual_description(folder: str) -> str:
    """Ultralytics' data.yaml or Darknet's obj.data in a YOLO folder; "" if there is none."""
    for name in ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "obj.data"):
        if os.path.isfile(os.path.join(folder, name)):
            return os.path.join(folder, name)
    return ""


def find_description(folder: str) -> str:
    """The file that describes a YOLO folder: the usual one, else the only YAML file with names and a split; or "".

    Raises:
        UserError: several YAML files qualify.
    """
    if usual := usual_description(folder):
        return usual
    names = sorted(name for name in _names(folder, ".") if name.lower().endswith((".yaml", ".yml")))
    found = [path for name in names if _describes(path := os.path.join(folder, name))]
    if len(found) > 1:
        raise UserError(f"{folder}: several files describe a YOLO set, name one of them: {', '.join(found)}")
    return found[0] if found else ""


def _describes(path: str) -> bool:
    try:
        content = read_plain_yaml(path)
    except UserError:  # of another program
        return False
    return isinstance(content, dict) and bool(content.get("names")) and any(content.get(split) for split in SPLIT_NAMES)


def read_description(path: str) -> dict[str, Any]:
    """The content of a data.yaml, or of an obj.data under Ultralytics' keys.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    if path.endswith(".data"):
        lines = [line.partition("=") for line in read_text(path).splitlines() if not line.lstrip().startswith("#")]
        content: Any = {key.strip(): value.strip() for key, equals, value in lines if equals}
        content["nc"] = content.pop("classes", None)
    else:
        content = read_plain_yaml(path)
    if not isinstance(content, dict) or not {"names", "nc"} & content.keys():
        raise UserError(f"{path}: a YOLO set's file needs the key 'names' and one a split (train, val)")
    return content


def has_split(folder: str, split: str) -> str:
    """Where a YOLO folder without a description has the images of ``split``, relative to it; "" if nowhere.

    images/SPLIT, SPLIT/images, a folder SPLIT with labels beside the images, or a list SPLIT.txt. The split "" is the
    whole folder: images/ with the labels inside or in labels/, or the folder itself with both. Case does not matter.
    """
    any_case = AnyCase()

    def there(*names: str) -> str:
        path = any_case.find(os.path.join(folder, *names))
        return os.path.relpath(path, folder) if os.path.isdir(path) else ""

    if not split:
        images = there("images") or "images"  # elsewhere, maybe
        if any(map(there, LABEL_FOLDERS)) or _has_pair(folder, images):
            return images
        return "." if _has_pair(folder, ".") else ""
    for name in split_names(split):
        if images := there("images", name) or there(name, "images"):
            return images
        labelled, own = there("labels", name), there(name)
        if own and (_has_pair(folder, own) or (labelled and _has_image(folder, own))):
            return own
        if labelled:
            return os.path.join(there("images") or "images", name)  # elsewhere, maybe
        if _is_list(os.path.join(folder, f"{name}.txt")):
            return f"{name}.txt"
    return ""


def yolo_splits(folder: str) -> list[str]:
    """The usual splits that a YOLO folder without a description has, each under its own name."""
    found = {has_split(folder, split): split for split in reversed(SPLIT_NAMES)}
    return [split for images, split in reversed(found.items()) if images]


def _names(folder: str, name: str) -> list[str]:
    try:
        return os.listdir(os.path.join(folder, name))
    except OSError:
        return []


def _has_image(folder: str, name: str) -> bool:
    return any(is_image(file) for file in _names(folder, name))


def _has_pair(folder: str, name: str) -> bool:
    """Whether an image of the folder has a .txt of its name beside it."""
    names = _names(folder, name)
    files = {file.casefold() for file in names}
    return any(is_image(file) and f"{os.path.splitext(file)[0]}.txt".casefold() in files for file in names)


def _is_list(path: str) -> bool:
    """Whether the first line of a file names an image."""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            return is_image(stream.readline(4096).strip())
    except (OSError, UnicodeDecodeError):
        return False

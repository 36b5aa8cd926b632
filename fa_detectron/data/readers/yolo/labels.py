"""The label file of each image of a YOLO set."""

import os

from fa_detectron.data.readers.files import read_text
from fa_detectron.data.readers.yolo.rows import parse_rows
from fa_detectron.data.sources.source import is_below
from fa_detectron.data.sources.splits import LABEL_FOLDERS, is_image
from fa_detectron.errors import UserError


def label_files(image: str, roots: list[str], entry: str = "", place: str = "") -> list[str]:
    """The possible label files of an image, in the order in which they are tried.

    With the last folder images/ of its path replaced by labels/ (or DOTA's labelTxt/); beside the image; below labels/
    beside it or in a root; and for images outside the set, where the set would have them.

    Args:
        image: absolute, below one of ``roots``.
        roots: absolute; paths that lead out of all of them are dropped.
        entry, place: the folder of images as named by the set, and the absolute folder used for it.
    """
    stem = os.path.splitext(image)[0]
    paths = [*_swapped(stem), stem]
    for folder in LABEL_FOLDERS:
        paths.append(os.path.join(os.path.dirname(stem), folder, os.path.basename(stem)))
        below = [os.path.relpath(stem, root) for root in roots if is_below(stem, root)]
        paths += [os.path.join(root, folder, name) for root in roots for name in below]
    if entry:
        own = os.path.join(entry, os.path.relpath(stem, place))
        paths += [os.path.join(root, name) for root in roots for name in (*_swapped(own), f"{LABEL_FOLDERS[0]}/{own}")]
    inside = [path for path in map(os.path.normpath, paths) if any(is_below(path, root) for root in roots)]
    return [f"{path}.txt" for path in dict.fromkeys(inside)]


def _swapped(stem: str) -> list[str]:
    """A path with its last folder "images" replaced by each folder of labels."""
    parts = stem.split(os.sep)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i].lower() == "images":
            return [os.sep.join([*parts[:i], folder, *parts[i + 1 :]]) for folder in LABEL_FOLDERS]
    return []


def strays(labels: dict[str, str]) -> list[str]:
    """The label files among those of a set that belong to no image.

    Args:
        labels: the label file of each image. Those of images of other splits do not count.
    """
    used, beside = set(labels.values()), {}
    for image, label in labels.items():
        beside.setdefault(os.path.dirname(label), set()).add(os.path.dirname(image))
    found = []
    for folder, image_folders in sorted(beside.items()):
        if os.path.isdir(folder):
            names = (name for place in image_folders for name in os.listdir(place) if is_image(name))
            stems = {os.path.splitext(name)[0] for name in names}
            files = (name for name in sorted(os.listdir(folder)) if name.lower().endswith(".txt"))
            paths = (os.path.join(folder, name) for name in files if name[:-4] not in stems)
            found += [path for path in paths if path not in used and _holds_rows(path)]
    return found


def _holds_rows(path: str) -> bool:
    """Whether a .txt file has labels, rather than class names, a list of images or a licence."""
    try:
        return bool(parse_rows(read_text(path), None, set())[0])
    except UserError:
        return False

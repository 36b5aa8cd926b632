"""Where a YOLO set (as Ultralytics lays it out) has its class names, images and labels.

``data.yaml`` has ``names`` (a list, or a map from numbers), ``path`` (the root, relative to the file; the file's own
folder where it is left out) and a key a split: a folder of images, a .txt list of images, or a list of these.
A folder without it: images/SPLIT or SPLIT/images or images/, and the names in classes.txt, if anywhere.
"""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from fa_detectron.data.findings import Findings
from fa_detectron.data.paths import LINKS, Source, find_description, has_split, is_inside, links_outside
from fa_detectron.errors import UserError
from fa_detectron.plain_yaml import read_plain_yaml

IMAGE_SUFFIXES = frozenset(".bmp .jpeg .jpg .png .tif .tiff .webp".split())
_SETTINGS = ("path", "names", "nc", "download", "kpt_shape", "flip_idx", "roboflow", "channels")
_NAME_FILES = ("classes.txt", "obj.names", os.path.join("labels", "classes.txt"))


class Layout(NamedTuple):
    root: str  # absolute; nothing outside is read
    names: dict[int, str]  # by class number, in their order; {} where no file has them
    images: list[str]  # relative to ``root``, sorted


def find_layout(source: Source, images_root: str, findings: Findings) -> Layout:
    """Find out what belongs to a split.

    Args:
        source: of parse_source.
        images_root: the root instead of the one that data.yaml names; "" for that one.
        findings: gets images that cannot be used.

    Raises:
        UserError: data.yaml is broken, or names no such split, or there is no image.
    """
    is_file = os.path.isfile(source.path)
    description = source.path if is_file else find_description(source.path)
    folder = os.path.dirname(source.path) if is_file else source.path
    content = _description(description) if description else {}
    root = os.path.abspath(
        os.path.expanduser(images_root) if images_root else os.path.join(folder, content.get("path", "."))
    )
    if not os.path.isdir(root):
        key = "--images (DATASETS.IMAGES_ROOT)" if images_root else f"{description}: key 'path'"
        raise UserError(f"{key}: no such folder: {root}")
    if description:
        entries = _split_entries(description, content, source.split)
        names = _class_names(description, content)
    else:
        entries = [has_split(root, source.split) if source.split else "images"]
        names = _names_beside(root)
    images: dict[str, None] = {}
    for entry in entries:
        images.update(dict.fromkeys(_images_of(description or source.path, root, entry, findings)))
    if not images:
        raise UserError(f"{source}: no image in {', '.join(os.path.join(root, entry) for entry in entries)}")
    outside = links_outside(root, images)
    findings.refuse(str(source), f"images that a link takes out of {root}", sorted(outside), LINKS)
    return Layout(root, names, sorted(name for name in images if name not in outside))


def _description(path: str) -> dict[str, Any]:
    content = read_plain_yaml(path)
    if not isinstance(content, dict) or "names" not in content:
        raise UserError(f"{path}: a YOLO set's file needs the key 'names' and one a split (train, val)")
    if not isinstance(content.setdefault("path", "."), (str, type(None))):
        raise UserError(f"{path}: 'path' must be a folder's name, is {content['path']!r:.80}")
    content["path"] = os.path.expanduser(content["path"] or ".")
    return content


def _split_entries(path: str, content: dict[str, Any], split: str) -> list[str]:
    value = content.get(split)
    if value is None or split in _SETTINGS:
        known = [str(key) for key in content if key not in _SETTINGS and content[key]]
        raise UserError(f"{path}: has no split {split!r}; it has {', '.join(known) or 'none'} (FILE.yaml:SPLIT)")
    entries = value if isinstance(value, list) else [value]
    bad = [repr(entry)[:80] for entry in entries if not isinstance(entry, str) or not entry or "\0" in entry]
    Findings(strict=True).refuse(path, f"entries of {split!r} that are no names of files or folders", bad)
    return entries


def _class_names(path: str, content: dict[str, Any]) -> dict[int, str]:
    names, count = content["names"], content.get("nc")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise UserError(f"{path}: 'names' must be a list or a map from numbers, is {content['names']!r:.80}")
    broken, known = [], {}
    for key, name in names.items():
        text = str(name) if type(name) in (str, int, float) else ""
        if type(key) is not int or key < 0:
            broken.append(f"the class number {key!r:.40} is none")
        elif not text.strip():
            broken.append(
                f"class {key}: {name!r:.80} is no name (YAML reads a bare yes or no as a truth value: quote it)"
            )
        elif text in known.values():
            broken.append(f"class {key} repeats the name {text!r:.80}")
        else:
            known[key] = text
    Findings(strict=True).refuse(path, "bad class names", broken)
    if count is not None and count != len(known):
        raise UserError(f"{path}: 'nc' is {count!r:.20}, but there are {len(known)} names")
    return dict(sorted(known.items()))


def _names_beside(root: str) -> dict[int, str]:
    for name in _NAME_FILES:
        path = os.path.join(root, name)
        if os.path.isfile(path):
            try:
                with open(path, encoding="utf-8") as stream:
                    lines = [line.strip() for line in stream.read().rstrip().splitlines()]
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
            return _class_names(path, {"names": lines})
    return {}


def _inside(root: str, name: str, beside: str = "") -> str:
    """``name`` relative to ``root``, "" where it is not below it.

    Lists may name images beside themselves ("./a.jpg"); exports of Roboflow say "../train/images" and mean
    "train/images".
    """
    name = os.path.expanduser(name)
    tries = [os.path.join(root, name), os.path.join(root, beside, name)]
    if name.startswith("../"):
        tries.append(os.path.join(root, name[3:]))
    relative = [os.path.relpath(path, root) for path in tries]
    inside = [path for path in relative if path == "." or is_inside(path)]
    there = [path for path in inside if os.path.exists(os.path.join(root, path))]
    return (there or inside or [""])[0]


def _images_of(path: str, root: str, entry: str, findings: Findings) -> Iterator[str]:
    """The images, relative to ``root``, of a folder or a .txt list."""
    name = _inside(root, entry)
    if not name or links_outside(root, [name]) - {"."}:
        raise UserError(f"{path}: {entry!r} leads out of {root}. Name the folder of the data with --images.")
    place = os.path.join(root, name)
    if os.path.isdir(place):
        for folder, folders, files in os.walk(place):
            folders.sort()
            for file in files:
                if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES:
                    yield os.path.relpath(os.path.join(folder, file), root)
        return
    try:
        with open(place, encoding="utf-8") as stream:
            lines = [line.strip() for line in stream if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {place}: {getattr(error, 'strerror', None) or error}") from None
    found = [(line, "" if "\0" in line else _inside(root, line, os.path.dirname(name))) for line in lines]
    findings.refuse(place, f"images that leave the folder {root}", [line[:200] for line, image in found if not image])
    yield from (image for _, image in found if image)


def label_file(image: str) -> str:
    """The labels of an image: its last folder "images" becomes "labels", its suffix .txt."""
    parts = os.path.splitext(image)[0].split(os.sep)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return os.sep.join(parts) + ".txt"

"""Read the boxes of a COCO JSON file.

Classes are numbered in the order of their category ids, as in Detectron2. Keypoints are ignored, and a segmentation
counts if there is no box.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any

from fa_detectron.data.findings import Findings
from fa_detectron.data.images.finder import ImageFinder
from fa_detectron.data.readers.coco_categories import Categories, read_categories
from fa_detectron.data.readers.files import read_json
from fa_detectron.data.readers.image_list import size_from_file
from fa_detectron.data.readers.shapes import overlap, polygon_bounds, segmentation_bounds
from fa_detectron.data.records import MOST_PIXELS, AnnotatedSet, Annotation, ImageRecord, ReadOptions
from fa_detectron.data.sources.source import Source, is_file_name
from fa_detectron.data.values import flag, identity, number, short
from fa_detectron.errors import UserError

_NUMBERS = {int, float}
LEAST_OVERLAP = 0.1  # IoU of a box and the box around its polygons; below it they hardly are of the same object


def _load(path: str) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: a COCO file is one JSON object, this is a {type(content).__name__}")
    content["categories"] = content.get("categories") or []
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            state = "has no" if key not in content else "holds no list under"
            raise UserError(f"{path}: {state} key {key!r}; a COCO file needs images, annotations and categories")
        broken = [f"{key}[{i}] is {short(item)}" for i, item in enumerate(content[key]) if not isinstance(item, dict)]
        Findings(strict=True).refuse(path, f"entries of {key!r} that are no JSON objects", broken)
    return content


def _file_name(item: dict[str, Any]) -> Any:
    return item.get("file_name") or item.get("coco_url")  # LVIS has the latter alone


def _side(value: Any) -> int | None:
    """Width or height in pixels; 0 if the file does not have it (absent, 0, negative), None if it is invalid."""
    if value is None or value == "":
        return 0
    side = number(value)
    return max(0, int(side)) if side is not None and side.is_integer() and side <= MOST_PIXELS else None


def _images(path: str, content: dict[str, Any], findings: Findings) -> dict[int | str, dict[str, Any]]:
    """The usable images by the ``identity`` of their id, in the order of the ids."""
    broken, repeated, contrary, good = [], [], [], {}
    for i, item in enumerate(content["images"]):
        key, name = identity(item.get("id")), _file_name(item)
        sides = [item.get("width"), item.get("height")]
        where = f"images[{i}] (id {short(item.get('id'))})"
        if key is None:
            broken.append(f"images[{i}]: id must be a whole number or a text, is {short(item.get('id'))}")
        elif not isinstance(name, str):
            broken.append(f"{where}: file_name must be a string, is {short(item.get('file_name'))}")
        elif not is_file_name(name):
            broken.append(f"{where}: file_name {short(name)} cannot be a file's name")
        elif None in map(_side, sides):
            broken.append(f"{where}: width and height must be whole numbers up to {MOST_PIXELS}, are {short(sides)}")
        elif key not in good:
            good[key] = item
        else:
            same = _file_name(good[key]) == name
            (repeated if same else contrary).append(f"images[{i}]: id {short(item['id'])}, file_name {name!r}")
    findings.refuse(path, "bad images", broken)
    findings.refuse(path, "images with an id that another image has", contrary)
    findings.problem(path, "images listed twice, with the same id and file", repeated)
    if not good:
        raise UserError(f"{path}: 'images' {'has no usable image' if content['images'] else 'is empty'}")
    if all(isinstance(item["id"], str) for item in good.values()):
        return dict(sorted(good.items(), key=lambda pair: pair[1]["id"]))
    if len({type(key) for key in good}) > 1:
        raise UserError(f"{path}: image ids must be all whole numbers or all texts, and are mixed")
    return dict(sorted(good.items()))


def _finder(path: str, options: ReadOptions, names: list[str]) -> ImageFinder:
    """Searches the set's folder, its images/, JPEGImages/ and the folder named like the file (train2017/ for
    instances_train2017.json), then the same ones in the parent folder; only ``options.images_root`` if that is given.
    """
    stem = Path(path).stem.removeprefix("instances_")
    below = ["images", "JPEGImages", stem, os.path.join("images", stem)]
    own, up = os.path.dirname(path), os.path.dirname(os.path.dirname(path))
    if root := options.images_folder():
        bases = [root]
    else:
        bases = [own, up]
        # The whole parent folder is searched only if the images are in a part of it.
        apart = os.path.basename(own).lower().startswith("annotation") or _any_folder(up, below)
        root = up if apart and not _any_folder(own, below) else own
    folders = [os.path.join(base, name) if name else base for base in bases for name in ("", *below)]
    step = max(1, len(names) // 20)
    return ImageFinder(folders, root, options.follow_links, names[::step])


def _any_folder(base: str, names: list[str]) -> bool:
    return any(os.path.isdir(os.path.join(base, name)) for name in names)


def _records(path: str, content: dict[str, Any], options: ReadOptions, findings: Findings) -> dict[Any, ImageRecord]:
    """The images without their annotations, by the ``identity`` of their id."""
    images = _images(path, content, findings)
    names = [_file_name(item) for item in images.values()]
    finder = _finder(path, options, names)
    files = [finder.find(name) for name in names]
    finder.report(path, findings)
    texts = all(isinstance(item["id"], str) for item in images.values())
    records, unreadable = {}, []
    for (key, item), file in zip(images.items(), files):
        size = _side(item.get("width")), _side(item.get("height"))
        if file and 0 in size:
            size = size_from_file(file, options.upright, unreadable)
        if file and size:
            records[key] = ImageRecord(file, item["id"].strip() if texts else key, *size, [], path)
    findings.refuse(path, "images that cannot be read", unreadable)
    return records


def _corners(bbox: Any) -> Any:
    """COCO's (x, y, w, h) as (x1, y1, x2, y2); anything else unchanged, for the check of the boxes to refuse."""
    if isinstance(bbox, list) and len(bbox) == 4:
        x, y, w, h = (number(v) if isinstance(v, str) else v for v in bbox)
        if {type(x), type(y), type(w), type(h)} <= _NUMBERS:
            try:
                return (x, y, x + w, y + h)
            except OverflowError:  # an integer that no float holds, next to a float
                pass
    return bbox


def _annotation(
    index: int, item: dict[str, Any], label: str, crowd: bool, image: ImageRecord, apart: list[str]
) -> Annotation:
    area = number(item.get("area"))
    area = area if area is not None and 0 < area <= MOST_PIXELS**2 else 0.0
    bbox, segmentation = item.get("bbox"), item.get("segmentation")
    box = _corners(bbox)
    annotation = Annotation(label, box, index, area, int(crowd))
    if not bbox or box == (0, 0, 0, 0):
        annotation.box = segmentation_bounds(segmentation, image.width, image.height) or box
    elif segmentation and isinstance(segmentation, list) and isinstance(box, tuple):
        around = polygon_bounds(segmentation)
        if around and overlap(box, around) < LEAST_OVERLAP:
            apart.append(f"{image.where(annotation)}: box {list(box)}, segmentation within {list(around)}")
    return annotation


def _add_annotations(
    path: str, content: dict[str, Any], categories: Categories, records: dict[Any, ImageRecord], findings: Findings
) -> None:
    left_out = {identity(item.get("id")) for item in content["images"]} - records.keys() - {None}
    strays, unknown, unclear, apart = [], [], [], []
    for index, item in enumerate(content["annotations"]):
        image_id, category = item.get("image_id"), item.get("category_id")
        key, label = identity(image_id), categories.named(item)
        marks = {name: flag(item.get(name)) for name in ("iscrowd", "ignore")}
        image = records.get(key)
        if key in left_out:
            continue
        if image is not None and label is not None and None not in marks.values():
            image.annotations.append(_annotation(index, item, label, any(marks.values()), image, apart))
            continue
        where = f"annotations[{index}] (id {short(item.get('id'))}"
        if image is None or (label is None and identity(category) is None):
            strays.append(f"{where}): image_id {short(image_id)}, category_id {short(category)}")
        elif label is None:
            unknown.append(f"{where}, image {short(image_id)}): category_id {short(category)}")
        else:
            bad = [f"{name} is {short(item[name])}" for name, value in marks.items() if value is None]
            unclear.append(f"{where}, image {short(image_id)}): {', '.join(bad)}")
    findings.refuse(path, "annotations without a known image and a category", strays)
    unlisted = f"annotations of a class that 'categories' does not list (it lists {short(list(categories.by_key))})"
    findings.refuse(path, unlisted, unknown)
    findings.refuse(path, "crowd marks that are neither yes nor no (0, 1, true, false)", unclear)
    findings.problem(path, f"boxes far from their own segmentation (IoU below {LEAST_OVERLAP})", apart)
    counts = Counter(identity(item.get("id")) for item in content["annotations"])
    repeated = [f"id {key!r}: {count} annotations" for key, count in counts.items() if count > 1 and key is not None]
    findings.note(path, "annotation ids that stand for several annotations (all are read)", repeated)


def read_coco(source: Source, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """Read a COCO JSON file."""
    path = source.path
    content = _load(path)
    categories = read_categories(path, content, findings)
    records = _records(path, content, options, findings)
    _add_annotations(path, content, categories, records, findings)
    zero = any(type(item.get("id")) in _NUMBERS and item["id"] == 0 for item in content["annotations"])
    return AnnotatedSet(path, categories.names, list(records.values()), categories.ids, has_id_zero=zero)

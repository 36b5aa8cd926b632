"""Read the detection part of a COCO JSON file.

Classes are numbered in the order of their category ids, as Detectron2 does. Only what detection needs is read: masks
and keypoints are passed over.
"""

import json
import numbers
import os
import reprlib
from typing import Any

from fa_detectron.data.checks import MOST_PIXELS
from fa_detectron.data.findings import Findings
from fa_detectron.data.paths import LINKS, Source, find_coco_images, is_inside, links_outside
from fa_detectron.data.records import AnnotatedSet, Annotation, ImageRecord, ReadOptions
from fa_detectron.errors import UserError


def _load(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as stream:
            content = json.load(stream)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})") from error
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a COCO file is one JSON object, this is a {type(content).__name__}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            state = "has no" if key not in content else "holds no list under"
            raise UserError(f"{path}: {state} key {key!r}; a COCO file needs images, annotations and categories")
        broken = [f"{key}[{i}] is {_short(item)}" for i, item in enumerate(content[key]) if not isinstance(item, dict)]
        Findings(strict=True).refuse(path, f"entries of {key!r} that are no JSON objects", broken)
    return content


def _short(value: Any) -> str:
    """A value in a message, however large it is."""
    return reprlib.repr(value)


def _encodable(name: str) -> bool:
    """Whether the file system can be asked for it; JSON may hold halves of characters."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _categories(path: str, content: dict[str, Any]) -> dict[int, str]:
    """Category id: name, in the order of the ids."""
    broken, names = [], {}
    for i, item in enumerate(content["categories"]):
        key, name = item.get("id"), item.get("name")
        if not _is_int(key) or not isinstance(name, str) or not name.strip():
            broken.append(f"categories[{i}] needs an integer id and a name, has id {_short(key)}, name {_short(name)}")
        elif key in names or name in names.values():
            broken.append(f"categories[{i}] repeats id {_short(key)} or name {_short(name)}")
        else:
            names[key] = name
    Findings(strict=True).refuse(path, "bad categories", broken)
    if not names:
        raise UserError(f"{path}: 'categories' is empty, so no class is known")
    return dict(sorted(names.items()))


def _images(path: str, content: dict[str, Any], findings: Findings) -> list[dict[str, Any]]:
    broken, repeated, good = [], [], {}
    for i, item in enumerate(content["images"]):
        key, name = item.get("id"), item.get("file_name")
        sides = [item.get("width"), item.get("height")]
        if not _is_int(key) and not isinstance(key, str):
            broken.append(f"images[{i}]: id must be an integer or a string, is {_short(key)}")
        elif not isinstance(name, str) or not name:
            broken.append(f"images[{i}] (id {_short(key)}): file_name must be a string, is {_short(name)}")
        elif not _encodable(name):
            broken.append(f"images[{i}] (id {_short(key)}): file_name {_short(name)} cannot be a file's name")
        elif not is_inside(name):
            broken.append(f"images[{i}] (id {_short(key)}): file_name {name!r} leaves the folder of the images")
        elif not all(_is_int(side) and 0 < side <= MOST_PIXELS for side in sides):
            broken.append(
                f"images[{i}] (id {_short(key)}): width and height must be positive integers (up to {MOST_PIXELS}), "
                f"are {_short(sides)}"
            )
        elif key in good:
            repeated.append(f"images[{i}]: id {_short(key)}, file_name {name!r}")
        else:
            good[key] = item
    findings.refuse(path, "bad images", broken)
    findings.refuse(path, "images with an id that another image has", repeated)
    if not good:
        raise UserError(f"{path}: 'images' {'holds no usable image' if content['images'] else 'is empty'}")
    if len({type(key) for key in good}) > 1:
        raise UserError(f"{path}: image ids must be all integers or all strings, and are mixed")
    return [good[key] for key in sorted(good)]


def _corners(bbox: Any) -> Any:
    """COCO's (x, y, w, h) as (x1, y1, x2, y2); anything else as it is, for the check of the boxes to refuse."""
    if isinstance(bbox, (list, tuple)) and len(bbox) == 4:
        if all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in bbox):
            x, y, w, h = bbox
            try:
                return (x, y, x + w, y + h)
            except OverflowError:  # an integer that no float holds, next to a float
                pass
    return bbox


def _annotation(index: int, item: dict[str, Any], label: str) -> Annotation:
    area = item.get("area")
    usable = isinstance(area, (int, float)) and 0 < area <= MOST_PIXELS**2
    crowd = 1 if item.get("iscrowd") or item.get("ignore") else 0
    return Annotation(label, _corners(item.get("bbox")), index, float(area) if usable else 0.0, crowd)


def read_coco_classes(path: str) -> tuple[str, ...]:
    """The class names of a COCO JSON file, in the order of the category ids."""
    return tuple(_categories(path, _load(path)).values())


def read_coco(source: Source, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """Read a COCO JSON file; see :func:`fa_detectron.data.readers.read_annotated_set`."""
    path = source.path
    content = _load(path)
    names = _categories(path, content)
    images = _images(path, content, findings)
    step = max(1, len(images) // 20)
    root = find_coco_images(path, options.images_root, [item["file_name"] for item in images[::step]])
    outside = links_outside(root, [item["file_name"] for item in images])
    findings.refuse(path, f"images that a link takes out of their folder {root}", sorted(outside), LINKS)
    records = {
        item["id"]: ImageRecord(f"{root}/{item['file_name']}", item["id"], item["width"], item["height"], [], path)
        for item in images
        if item["file_name"] not in outside
    }
    left_out = {key for item in content["images"] if isinstance(key := item.get("id"), (int, str))} - records.keys()
    strays, unknown = [], []
    for index, item in enumerate(content["annotations"]):
        image_id, category = item.get("image_id"), item.get("category_id")
        hashable = isinstance(image_id, (int, str)) and _is_int(category)
        where = f"annotations[{index}] (id {_short(item.get('id'))}"
        if hashable and image_id in left_out:
            continue
        if not hashable or image_id not in records:
            strays.append(f"{where}): image_id {_short(image_id)}, category_id {_short(category)}")
        elif category not in names:
            unknown.append(f"{where}, image {_short(image_id)}): category_id {_short(category)}")
        else:
            records[image_id].annotations.append(_annotation(index, item, names[category]))
    findings.refuse(path, "annotations without a known image and an integer category", strays)
    unlisted = f"annotations of a class that 'categories' does not list (it lists {_short(sorted(names))})"
    findings.refuse(path, unlisted, unknown)
    return AnnotatedSet(path, tuple(names.values()), list(records.values()), tuple(names))

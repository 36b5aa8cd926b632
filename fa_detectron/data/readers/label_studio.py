"""Read Label Studio's JSON and JSON-MIN: regions in percent of the image, rotated ones with the box around them.

Of several annotations of a task, the one marked as ground truth counts, else the latest (the last in the list if none
has a date); cancelled ones and predictions do not count. A task without an annotation is not part of the set; one with
an empty annotation is an image without a box. Rectangles, ellipses and polygons are read, brush masks are refused, and
anything else (key points, choices) is left out.
"""

import os
import re
from typing import Any

from fa_detectron.data.findings import Findings
from fa_detectron.data.readers.builder import SetBuilder
from fa_detectron.data.readers.files import objects, read_json
from fa_detectron.data.readers.shapes import Box, ellipse, hull, numbers, rotated
from fa_detectron.data.records import AnnotatedSet, ImageRecord, ReadOptions
from fa_detectron.data.sources.source import Source
from fa_detectron.data.sources.splits import is_image
from fa_detectron.data.values import flag, number, short

_SHAPES = ("rectangle", "ellipse", "polygon")
_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an uploaded file
_TASK_KEYS = ("annotation_id", "annotator", "created_at", "updated_at", "lead_time", "id")


def read_label_studio(source: Source, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """Read a Label Studio export; its classes are in alphabetical order."""
    builder = SetBuilder(source, options, findings)
    tasks = objects(read_json(source.path))
    if not any(isinstance(task.get("data"), dict) for task in tasks):
        tasks = _minimal_tasks(tasks)
    shown = {_object(region) for task in tasks for a in _annotations(task) for region in _drawn(a)}
    for task in tasks:
        where = f"task {short(task.get('id'))}"
        made = [a for a in _annotations(task) if not flag(a.get("was_cancelled"))]
        if not made:
            builder.note("tasks without an annotation are not part of the set", where)
            continue
        if len(made) > 1:
            builder.note("tasks with several annotations: the ground truth counts, else the latest one", where)
        regions = objects(_latest(made).get("result"))
        for name, own in _by_image(builder, task, regions, shown, where):
            if image := _image(builder, name, own, where):
                _add_regions(builder, image, own)
    return builder.finish()


def _latest(made: list[dict[str, Any]]) -> dict[str, Any]:
    """The annotation that counts; those without a date are older than any with one, the last in the list the newest."""

    def rank(index: int) -> tuple[bool, str, int]:
        item = made[index]
        return bool(flag(item.get("ground_truth"))), str(item.get("updated_at") or item.get("created_at") or ""), index

    return made[max(range(len(made)), key=rank)]


def _annotations(task: dict[str, Any]) -> list[dict[str, Any]]:
    return objects(task.get("annotations", task.get("completions")))  # the latter before version 1.0


def _minimal_tasks(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items of JSON-MIN, one per annotation, as tasks."""
    tasks: dict[str, dict[str, Any]] = {}
    for index, item in enumerate(items):
        lists = [objects(value) for key, value in item.items() if key not in _TASK_KEYS]
        regions = [
            {**region, "value": region, "type": kind}
            for regions in lists
            for region in regions
            for kind in [next((key for key in region if key.endswith("labels")), "rectangle" if "x" in region else "")]
        ]
        data = {key: value for key, value in item.items() if isinstance(value, str) and key not in _TASK_KEYS}
        key = repr(item["id"]) if "id" in item else f"item {index}"
        task = tasks.setdefault(key, {"id": item.get("id", index), "data": data, "annotations": []})
        task["annotations"].append({"result": regions, "updated_at": item.get("updated_at")})
    return list(tasks.values())


def _object(region: dict[str, Any]) -> str:
    name = region.get("to_name")
    return name if isinstance(name, str) else ""


def _drawn(annotation: dict[str, Any]) -> list[dict[str, Any]]:
    """The regions of an annotation that lie on an image."""
    regions = objects(annotation.get("result"))
    return [region for region in regions if isinstance(region.get("value"), dict) and _shape_of(region) != "labels"]


def _by_image(
    builder: SetBuilder, task: dict[str, Any], regions: list[dict[str, Any]], shown: set[Any], where: str
) -> list[tuple[str | None, list[dict[str, Any]]]]:
    """(name, regions) of the images of a task; [] and refused if it is unclear to which image regions belong.

    A region's ``to_name`` is the name of a tag <Image>, usually the key of its image in the task's data. An export does
    not say which key a tag with another name shows.

    Args:
        shown: the ``to_name`` of the regions of all tasks; "" for those without one.
    """
    data = task.get("data")
    texts = {key: value for key, value in data.items() if isinstance(value, str)} if isinstance(data, dict) else {}
    if shown and shown <= texts.keys():
        return [(texts[key], [r for r in regions if _object(r) in (key, "")]) for key in texts if key in shown]
    images = [text for text in dict.fromkeys(texts.values()) if is_image(text.partition("?")[0])]
    usual = [texts[key] for key in ("image", "img", "image_url", "url", "ocr") if key in texts]
    if (len(shown) > 1 and len(texts) > 1) or (len(images) > 1 and shown and (not usual or "" in shown)):
        names = ", ".join(key for key, text in texts.items() if text in (images or texts.values()))
        builder.refuse(
            "tasks with several images, whose regions do not say to which they belong (export JSON, and call each tag "
            '<Image> like the key that it shows: name="image1" value="$image1")',
            f"{where}: {names}",
        )
        return []
    return [((usual or images or list(texts.values()) or [None])[0], regions)]


def _image(builder: SetBuilder, name: str | None, regions: list[dict[str, Any]], where: str) -> ImageRecord | None:
    sized = next((region for region in regions if "original_width" in region), {})
    size = sized.get("original_width"), sized.get("original_height")
    base = os.path.basename(name) if name else ""
    return builder.image(name, where, size, otherwise=(base, _UPLOAD.sub("", base)) if base else ())


def _add_regions(builder: SetBuilder, image: ImageRecord, regions: list[dict[str, Any]]) -> None:
    labelled = {repr(region.get("id")) for region in regions if "id" in region and _labels(region)}
    for index, region in enumerate(regions):
        kind, where = str(region.get("type")), f"region {index} of {image.image_id}"
        shape = kind.removesuffix("labels") or _shape_of(region)
        if shape == "brush":
            builder.refuse(
                "brush masks, which are not read (Label Studio's COCO export has polygons and rectangles alone; "
                "replace them by polygons or rectangles)", where,
            )  # fmt: skip
            continue
        if shape not in _SHAPES:
            builder.leave_out(kind)
            continue
        labels = _labels(region)
        if not labels and repr(region.get("id")) in labelled:  # <Rectangle> with <Labels> lists the region twice
            continue
        if len(labels) > 1:
            builder.refuse("regions of several classes", f"{where}: {short(labels)}")
        elif number(region.get("image_rotation", 0)) != 0:
            builder.refuse("regions of images that were rotated in Label Studio (undo the rotation)", where)
        else:
            builder.box(image, labels[0] if labels else None, _box(shape, region.get("value"), image), index)


def _labels(region: dict[str, Any]) -> list[Any]:
    value, kind = region.get("value"), str(region.get("type"))
    found = value.get(kind) if isinstance(value, dict) and kind.endswith("labels") else None
    return found if isinstance(found, list) else []


def _shape_of(region: dict[str, Any]) -> str:
    """The shape of a region of type "labels", from its coordinates."""
    value = region.get("value")
    keys = value if isinstance(value, dict) else {}
    known = {"points": "polygon", "radiusX": "ellipse", "rle": "brush", "width": "rectangle"}
    return next((shape for key, shape in known.items() if key in keys), "labels")


def _box(shape: str, value: Any, image: ImageRecord) -> Box | None:
    """The box, in pixels, of a region's value, whose lengths are in percent of the image's sides."""
    if not isinstance(value, dict):
        return None
    per_x, per_y = image.width / 100, image.height / 100
    degrees = number(value.get("rotation", 0))
    if shape == "polygon":
        box = hull(value.get("points"))
        return box and (box[0] * per_x, box[1] * per_y, box[2] * per_x, box[3] * per_y)
    sides = ("radiusX", "radiusY") if shape == "ellipse" else ("width", "height")
    values = numbers(value.get(key) for key in ("x", "y", *sides))
    if not values or degrees is None:
        return None
    x, y, width, height = values[0] * per_x, values[1] * per_y, values[2] * per_x, values[3] * per_y
    if shape == "ellipse":
        return ellipse(x, y, width, height, degrees)
    return rotated((x, y, x + width, y + height), degrees, about=(x, y))  # about its upper left corner

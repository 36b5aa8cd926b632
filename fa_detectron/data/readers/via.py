"""Read the VGG Image Annotator's JSON (versions 1 and 2, the annotations or the project) or CSV; regions in pixels.

Rectangles, circles, ellipses and polygons count with the box around them; points and lines are left out. The class is
the value of the region attribute chosen by :func:`_class_attribute`; regions without attributes are of one class.
"""

import json
import math
from collections.abc import Iterator
from typing import Any

from fa_detectron.data.findings import Findings
from fa_detectron.data.readers.builder import SetBuilder
from fa_detectron.data.readers.csv_columns import csv_table
from fa_detectron.data.readers.files import objects, read_json
from fa_detectron.data.readers.shapes import Box, ellipse, hull, rectangle
from fa_detectron.data.records import AnnotatedSet, ReadOptions
from fa_detectron.data.sources.source import Source
from fa_detectron.data.values import flag, number
from fa_detectron.errors import UserError

_CLASS_WORDS = ("class", "label", "category", "name", "type", "object", "classname", "labelname")
_NO_AREA = ("point", "polyline", "line")
ONLY_CLASS = "object"  # of sets whose regions have no attribute


def read_via(source: Source, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """Read a VIA file; its classes are in alphabetical order.

    Raises:
        UserError: also if it is unclear which attribute is the class.
    """
    builder = SetBuilder(source, options, findings)
    is_json = not source.path.lower().endswith(".csv")
    content = read_json(source.path) if is_json else {"_via_img_metadata": dict(enumerate(_csv_images(source.path)))}
    files = content.get("_via_img_metadata", content) if isinstance(content, dict) else {}
    images = [(item, _regions(item)) for item in (files.values() if isinstance(files, dict) else ()) if _is_image(item)]
    attribute = _class_attribute(source.path, [region for _, regions in images for region in regions], content)
    if not attribute and any(regions for _, regions in images):
        builder.say(f"no region has an attribute, so all are of one class, {ONLY_CLASS!r}")
    for index, (item, regions) in enumerate(images):
        image = builder.image(item.get("filename"), f"image {index}")
        for number_, region in enumerate(regions if image else ()):
            shape = region.get("shape_attributes")
            kind = shape.get("name") if isinstance(shape, dict) else None
            if kind in _NO_AREA:
                builder.leave_out(kind)
            else:
                label = _label(_attributes(region).get(attribute)) if attribute else ONLY_CLASS
                builder.box(image, label, _box(kind, shape), number_)
    return builder.finish()


def _is_image(item: Any) -> bool:
    return isinstance(item, dict) and "filename" in item


def _regions(item: dict[str, Any]) -> list[dict[str, Any]]:
    """A list in version 2, an object by number in version 1."""
    regions = item.get("regions")
    return objects(list(regions.values()) if isinstance(regions, dict) else regions)


def _attributes(region: dict[str, Any]) -> dict[str, Any]:
    found = region.get("region_attributes")
    return found if isinstance(found, dict) else {}


def _class_attribute(path: str, regions: list[dict[str, Any]], content: Any) -> str:
    """The region attribute with the class; "" if no region has an attribute.

    The only attribute; else the only one called class, label or similar; else the only one that is a choice (dropdown
    or radio) in the project.
    """
    names = list(dict.fromkeys(name for region in regions for name in _attributes(region)))
    if len(names) < 2:
        return names[0] if names else ""
    called = [name for name in names if name.casefold().replace("_", "").replace(" ", "") in _CLASS_WORDS]
    if len(called) == 1:
        return called[0]
    project = content.get("_via_attributes") if isinstance(content, dict) else None
    known = project.get("region") if isinstance(project, dict) else None
    items = known.items() if isinstance(known, dict) else ()
    types = {name: item.get("type") for name, item in items if isinstance(item, dict)}
    choices = [name for name in called or names if types.get(name) in ("dropdown", "radio")]
    if len(choices) == 1:
        return choices[0]
    raise UserError(
        f"{path}: its regions have the attributes {', '.join(map(repr, names))}, and it is unclear which of them "
        "is the class. Rename that one to 'class'."
    )


def _label(value: Any) -> Any:
    """The value of an attribute; of checkboxes, {"cat": true, "dog": false}, the only ticked one."""
    if isinstance(value, dict):
        ticked = [key for key, state in value.items() if flag(state)]
        return ticked[0] if len(ticked) == 1 else None
    return value


def _box(kind: Any, shape: Any) -> Box | None:
    if not isinstance(shape, dict):
        return None
    if kind == "rect":
        return rectangle(*(shape.get(key) for key in ("x", "y", "width", "height")))
    if kind == "circle":
        return ellipse(shape.get("cx"), shape.get("cy"), shape.get("r"), shape.get("r"))
    if kind == "ellipse":
        turn = number(shape.get("theta", 0))
        x, y, width, height = (shape.get(key) for key in ("cx", "cy", "rx", "ry"))
        return None if turn is None else ellipse(x, y, width, height, math.degrees(turn))
    xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
    if kind == "polygon" and isinstance(xs, list) and isinstance(ys, list) and len(xs) == len(ys):
        return hull(list(zip(xs, ys)))
    return None


def _csv_images(path: str) -> Iterator[dict[str, Any]]:
    """The rows of VIA's CSV, one per region, as the images of its JSON."""
    header, rows = csv_table(path)
    images: dict[str, dict[str, Any]] = {}
    for line, row in rows:
        fields = dict(zip(header, row))
        if not fields.get("filename"):
            continue
        image = images.setdefault(fields["filename"], {"filename": fields["filename"], "regions": []})
        try:
            region = {
                key: json.loads(fields.get(f"region_{key}") or "{}") for key in ("shape_attributes", "attributes")
            }
        except ValueError:
            raise UserError(f"{path}: line {line}: the attributes are not valid JSON") from None
        if region["shape_attributes"]:
            image["regions"].append(
                {"shape_attributes": region["shape_attributes"], "region_attributes": region["attributes"]}
            )
    return iter(images.values())

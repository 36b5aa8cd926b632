"""Axis-aligned boxes (x1, y1, x2, y2) around the shapes of annotation tools, in pixels with y down."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pycocotools import mask

from fa_detectron.data.records import MOST_PIXELS
from fa_detectron.data.values import number

Box = tuple[float, float, float, float]
# A compressed RLE: each number has up to six continued characters and one that ends it. Anything else would make
# pycocotools read beyond the end of the text.
_COMPRESSED = re.compile(r"(?:[P-o]{0,6}[0-O])+")


def numbers(values: Iterable[Any]) -> list[float] | None:
    """Finite numbers from numbers or their texts; None if any is neither."""
    found = [number(value) for value in values]
    return None if None in found else found


def hull(points: Any) -> Box | None:
    """The box around points [(x, y), ...]; None if they are invalid."""
    if not isinstance(points, Sequence) or isinstance(points, str) or not points:
        return None
    if not all(isinstance(point, Sequence) and not isinstance(point, str) and len(point) == 2 for point in points):
        return None
    xs, ys = numbers(point[0] for point in points), numbers(point[1] for point in points)
    return (min(xs), min(ys), max(xs), max(ys)) if xs and ys else None


def rectangle(x: Any, y: Any, width: Any, height: Any) -> Box | None:
    """The box of a corner and a size."""
    values = numbers((x, y, width, height))
    return (values[0], values[1], values[0] + values[2], values[1] + values[3]) if values else None


def rotated(box: Box, degrees: float, about: tuple[float, float] | None = None) -> Box:
    """The box around a box that is rotated clockwise ``about`` a point, by default its centre."""
    if not degrees % 360:
        return box
    x1, y1, x2, y2 = box
    cx, cy = about or ((x1 + x2) / 2, (y1 + y2) / 2)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(x - cx, y - cy) for x in (x1, x2) for y in (y1, y2)]
    return hull([(cx + x * cos - y * sin, cy + x * sin + y * cos) for x, y in corners])


def ellipse(cx: Any, cy: Any, rx: Any, ry: Any, degrees: float = 0.0) -> Box | None:
    """The box around an ellipse of these radii that is rotated clockwise about its centre."""
    values = numbers((cx, cy, rx, ry))
    if not values:
        return None
    cx, cy, rx, ry = values
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half_width, half_height = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return cx - half_width, cy - half_height, cx + half_width, cy + half_height


def segmentation_bounds(segmentation: Any, width: int, height: int) -> Box | None:
    """The box around a segmentation.

    Args:
        segmentation: polygons, each [x1, y1, x2, y2, ...] in pixels, or one such polygon; or a run-length encoding,
            {"size": [height, width], "counts": a list, or a text (compressed)}.
        width, height: of the image, in pixels.

    Returns:
        (x1, y1, x2, y2) in pixels; None if it cannot be used.
    """
    if isinstance(segmentation, dict):
        return _rle_bounds(segmentation, width, height)
    return polygon_bounds(segmentation)


def polygon_bounds(polygons: Any) -> Box | None:
    """The box around polygons, as of :func:`segmentation_bounds`; None for anything else."""
    if not isinstance(polygons, list) or not polygons:
        return None
    if not isinstance(polygons[0], list):
        polygons = [polygons]
    if not all(isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in polygons):
        return None
    try:
        x1 = min(min(polygon[0::2]) for polygon in polygons)
        y1 = min(min(polygon[1::2]) for polygon in polygons)
        x2 = max(max(polygon[0::2]) for polygon in polygons)
        y2 = max(max(polygon[1::2]) for polygon in polygons)
        return float(x1), float(y1), float(x2), float(y2)
    except (TypeError, ValueError, OverflowError):
        return None


def _rle_bounds(rle: dict[str, Any], width: int, height: int) -> Box | None:
    counts = rle.get("counts")
    if rle.get("size") != [height, width] or not 0 < width <= MOST_PIXELS or not 0 < height <= MOST_PIXELS:
        return None
    if isinstance(counts, list):
        if not all(type(count) is int and count >= 0 for count in counts) or sum(counts) != width * height:
            return None
        rle = mask.frPyObjects({"counts": counts, "size": [height, width]}, height, width)
    elif not isinstance(counts, str) or not _COMPRESSED.fullmatch(counts):
        return None
    x, y, w, h = mask.toBbox(rle).tolist()
    return (x, y, x + w, y + h) if w > 0 and h > 0 else None


def overlap(first: Box, second: Box) -> float:
    """IoU of two boxes (x1, y1, x2, y2); 0 if both are empty."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    common = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    union = sum(areas) - common
    return common / union if union > 0 else 0.0

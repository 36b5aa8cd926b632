"""The bounding box of a COCO segmentation."""

import re
from typing import Any

from pycocotools import mask

from fa_detectron.data.checks.boxes import MOST_PIXELS

# A compressed RLE: of each number, up to six characters that more follow and one that ends it. Anything else would lead
# pycocotools beyond the end of the text.
_COMPRESSED = re.compile(r"(?:[P-o]{0,6}[0-O])+")


def segmentation_bounds(segmentation: Any, width: int, height: int) -> tuple[float, float, float, float] | None:
    """The box around a segmentation.

    Args:
        segmentation: polygons, each [x1, y1, x2, y2, ...] in pixels, or one such polygon; or a run-length encoding,
            {"size": [height, width], "counts": a list, or a text (compressed)}.
        width, height: of the image, in pixels.

    Returns:
        (x1, y1, x2, y2) in pixels; None where there is nothing that could be used.
    """
    if isinstance(segmentation, dict):
        return _rle_bounds(segmentation, width, height)
    return polygon_bounds(segmentation)


def polygon_bounds(polygons: Any) -> tuple[float, float, float, float] | None:
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


def _rle_bounds(rle: dict[str, Any], width: int, height: int) -> tuple[float, float, float, float] | None:
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


def overlap(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """IoU of two boxes (x1, y1, x2, y2); 0 where both are empty."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    common = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    union = sum(areas) - common
    return common / union if union > 0 else 0.0

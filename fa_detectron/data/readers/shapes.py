"""Axis-aligned boxes around the shapes of annotation tools. All in pixels, with y down; boxes are (x1, y1, x2, y2)."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from fa_detectron.data.values import number

Box = tuple[float, float, float, float]


def numbers(values: Iterable[Any]) -> list[float] | None:
    """Finite numbers from numbers or their texts; None where one is neither."""
    found = [number(value) for value in values]
    return None if None in found else found


def hull(points: Any) -> Box | None:
    """The box around points, [(x, y), ...] of any length; None where they are none."""
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
    """The box around a box that is turned clockwise; ``about`` its centre where nothing else is given."""
    if not degrees % 360:
        return box
    x1, y1, x2, y2 = box
    cx, cy = about or ((x1 + x2) / 2, (y1 + y2) / 2)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(x - cx, y - cy) for x in (x1, x2) for y in (y1, y2)]
    return hull([(cx + x * cos - y * sin, cy + x * sin + y * cos) for x, y in corners])


def ellipse(cx: Any, cy: Any, rx: Any, ry: Any, degrees: float = 0.0) -> Box | None:
    """The box around an ellipse of these radii that is turned clockwise about its centre."""
    values = numbers((cx, cy, rx, ry))
    if not values:
        return None
    cx, cy, rx, ry = values
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half_width, half_height = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return cx - half_width, cy - half_height, cx + half_width, cy + half_height

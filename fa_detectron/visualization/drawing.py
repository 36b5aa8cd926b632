"""Boxes with readable labels on an image.

Detectron2's Visualizer is made for instance masks: its box labels overlap on small images, and its colours change from
call to call. Here each class has one colour, and labels avoid each other.
"""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
_Rect = tuple[float, float, float, float]  # x1, y1, x2, y2 pixels

_PALETTE: tuple[Colour, ...] = tuple(
    tuple(bytes.fromhex(code))
    for code in "e63946 2a9df4 ffb703 26a65b a855f7 fb6f24 14b8a6 ec4899 84cc16 6366f1".split()
)


def class_colour(index: int) -> Colour:
    """The RGB colour of a class number; neighbours differ clearly, however many classes there are."""
    if index < len(_PALETTE):
        return _PALETTE[index]
    hue = index * 0.618034 % 1.0  # the golden ratio spreads any number of hues evenly
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 0.95 if index % 2 else 0.75)
    return round(red * 255), round(green * 255), round(blue * 255)


def text_colour(fill: Colour) -> Colour:
    """Black or white, whichever reads better on ``fill``."""
    luminance = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2]
    return (0, 0, 0) if luminance > 140 else (255, 255, 255)


def _overlap(a: _Rect, b: _Rect) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _label_place(box: _Rect, size: tuple[float, float], canvas: tuple[int, int], taken: Sequence[_Rect]) -> _Rect:
    """The place of a label of ``size``: at a corner of its box, inside the canvas, overlapping other labels least."""
    (x1, y1, x2, y2), (w, h) = box, size
    above_or_below = [(x1, y1 - h), (x1, y2), (x2 - w, y1 - h), (x2 - w, y2)]
    corners = [*above_or_below, (x1, y1), (x2, y1), (x1 - w, y1), (x2 - w, y2 - h)]
    places: list[_Rect] = []
    for x, y in corners:
        x, y = min(max(x, 0.0), canvas[0] - w), min(max(y, 0.0), canvas[1] - h)
        places.append((x, y, x + w, y + h))
    # min takes the first of equals: the corners are in order of preference.
    return min(places, key=lambda place: sum(_overlap(place, other) for other in taken))


def draw_boxes(
    image: Image.Image, boxes: np.ndarray, labels: Sequence[str], colours: Sequence[Colour], font_size: int = 13
) -> Image.Image:
    """Draw boxes with labels on a copy of an RGB image.

    Args:
        boxes: (B, 4) xyxy pixels of ``image``.
        labels, colours: B of each; "" draws no label.
    """
    canvas = image.convert("RGB")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(font_size)
    # Large boxes first, so that a small one inside stays visible.
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) if len(boxes) else np.zeros(0)
    order = np.argsort(-area, kind="stable")
    for i in order:
        x1, y1, x2, y2 = (float(v) for v in boxes[i])
        # The box covers pixels up to x2 - 1; two lines, dark outside, read on light and on dark images.
        right, bottom = max(x2 - 1, x1), max(y2 - 1, y1)
        draw.rectangle((x1 - 1, y1 - 1, right + 1, bottom + 1), outline=(20, 20, 20), width=1)
        draw.rectangle((x1, y1, right, bottom), outline=colours[i], width=2)
    taken: list[_Rect] = []
    for i in (i for i in order if labels[i]):
        left, _, right, _ = draw.textbbox((0, 0), labels[i], font=font)
        size = (right - left + 6.0, font_size + 4.0)
        place = _label_place(tuple(float(v) for v in boxes[i]), size, canvas.size, taken)
        taken.append(place)
        draw.rounded_rectangle(place, radius=3, fill=colours[i])
        draw.text((place[0] + 3 - left, place[1] + 1), labels[i], font=font, fill=text_colour(colours[i]))
    return canvas

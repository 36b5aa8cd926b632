"""Scenes of the built-in data set: shapes of many sizes that overlap, over textured backgrounds, with their boxes.

A box is tight around the part of a shape that can be seen: the pixels inside the image that no later shape covers.
Every drawn shape of a class is in the truth; a shape that would hide too much of another one is not drawn at all.

Legend: H, W pixels of the scene, h, w of the patch around one shape.
"""

import math
from typing import NamedTuple

import numpy as np

from fa_detectron.data.builtin.shapes import CLASSES, DISTRACTORS, Shape, background, colour, pattern

CLASS_NAMES = tuple(CLASSES)
MIN_VISIBLE = 0.35  # of a shape's own pixels; below it a class is guesswork
MIN_PIXELS = 40
_RADII = (7.0, 90.0)
_SHAPES: tuple[Shape, ...] = tuple(CLASSES.values())


class Scene(NamedTuple):
    image: np.ndarray  # (H, W, 3) uint8 RGB
    boxes: np.ndarray  # (G, 4) int64 xyxy pixels, x2 and y2 exclusive
    classes: np.ndarray  # (G,) int64
    areas: np.ndarray  # (G,) int64, visible pixels


class _Patch(NamedTuple):
    rows: slice
    cols: slice
    x: np.ndarray  # (h, w) pixel coordinates of the cells' centres
    y: np.ndarray  # (h, w)
    distance: np.ndarray  # (h, w) signed distance to the outline, pixels
    shadow: np.ndarray  # (h, w) the same, of the shape moved by the shadow's offset


def _outline(
    shape: Shape, cx: float, cy: float, radius: float, aspect: float, angle: float, height: int, width: int
) -> _Patch | None:
    """The shape's signed distance on the patch of the scene that can hold it; None where the scene has no such part."""
    stretch_u, stretch_v = radius * math.sqrt(aspect), radius / math.sqrt(aspect)
    reach = max(stretch_u, stretch_v) + 6.0
    top, bottom = max(0, int(cy - reach)), min(height, int(cy + reach) + 1)
    left, right = max(0, int(cx - reach)), min(width, int(cx + reach) + 1)
    if bottom - top < 4 or right - left < 4:
        return None
    y, x = np.mgrid[top:bottom, left:right].astype(np.float64) + 0.5
    c, s = math.cos(angle), math.sin(angle)

    def distance(shift: float) -> np.ndarray:
        dx, dy = x - cx - shift, y - cy - shift
        return shape((dx * c + dy * s) / stretch_u, (dy * c - dx * s) / stretch_v) * min(stretch_u, stretch_v)

    shift = min(4.0, 1.0 + 0.04 * radius)
    return _Patch(slice(top, bottom), slice(left, right), x, y, distance(0.0), distance(shift))


def _paint(rng: np.random.RandomState, image: np.ndarray, patch: _Patch, radius: float) -> None:
    """Draw one shape into image (H, W, 3): shadow, textured face, darker rim."""
    view = image[patch.rows, patch.cols]  # (h, w, 3)
    cover = np.clip(0.5 - patch.distance, 0.0, 1.0)[..., None]  # (h, w, 1)
    shadow = 0.35 * np.clip(0.5 - patch.shadow / 6.0, 0.0, 1.0)[..., None]
    around = view.mean(axis=(0, 1))
    # Contrast to the surroundings runs from hardly visible to strong.
    contrast = rng.uniform(0.12, 0.9)
    face = around + contrast * (colour(rng) - around)
    other = face + contrast * rng.uniform(-80.0, 80.0, size=3)
    mix = pattern(rng, patch.x, patch.y, rng.uniform(4.0, 6.0 + 0.35 * radius))[..., None]
    fill = face + mix * (other - face)  # (h, w, 3)
    rim_width = max(1.0, 0.05 * radius)
    rim = np.clip(1.5 + patch.distance / rim_width, 0.0, 1.0)[..., None] * rng.uniform(0.0, 0.35)
    fill = fill * (1.0 - rim)
    view *= 1.0 - shadow * (1.0 - cover)
    view += cover * (fill - view)


def _place(rng: np.random.RandomState, height: int, width: int, radius: float, shape: Shape) -> _Patch | None:
    margin = 0.4 * radius
    cx = rng.uniform(-0.25 * margin, width + 0.25 * margin)
    cy = rng.uniform(-0.25 * margin, height + 0.25 * margin)
    aspect = rng.uniform(0.72, 1.39)
    return _outline(shape, cx, cy, radius, aspect, rng.uniform(0, 2 * math.pi), height, width)


def render_scene(
    seed: tuple[int, ...], height: int, width: int, objects: int | None = None, radii: tuple[float, float] = _RADII
) -> Scene:
    """Draw the scene of one seed.

    Args:
        seed: integers below 2**32, the whole source of randomness.
        height, width: size in pixels.
        objects: how many are tried; None draws the number, 0 or 4 to 14.
        radii: smallest and largest radius of the objects in pixels; distractors keep the built-in set's.
    """
    rng = np.random.RandomState(list(seed))
    image = background(rng, height, width)
    owner = np.full((height, width), -1)  # (H, W) index of the object that is seen
    full: list[int] = []  # pixels of each object before anything covered it
    classes: list[int] = []  # -1: distractor

    count = 0 if rng.uniform() < 0.02 else rng.randint(4, 15)
    count = count if objects is None else objects
    total = count + rng.randint(0, 6)
    ranges = [[math.log(r) for r in (radii if i < count else _RADII)] for i in range(total)]
    sizes = np.exp(rng.uniform(*np.reshape(ranges, (total, 2)).T))
    kinds = [rng.randint(len(_SHAPES)) if i < count else -1 for i in range(total)]
    # Mostly the large ones first: they would hide the small ones.
    order = np.argsort(-sizes * rng.uniform(0.5, 1.5, size=total), kind="stable")
    for i in order:
        kind, radius = kinds[i], float(sizes[i])
        shape = _SHAPES[kind] if kind >= 0 else DISTRACTORS[rng.randint(len(DISTRACTORS))]
        for _ in range(20):
            patch = _place(rng, height, width, radius, shape)
            if patch is None:
                continue
            inside = patch.distance < 0.0
            trial = owner.copy()
            trial[patch.rows, patch.cols][inside] = len(full)
            pixels = int(inside.sum())
            visible = np.bincount(trial[trial >= 0], minlength=len(full) + 1)
            if pixels >= MIN_PIXELS and all(visible[k] >= MIN_VISIBLE * full[k] for k in range(len(full))):
                owner = trial
                full.append(pixels)
                classes.append(kind)
                _paint(rng, image, patch, radius)
                break

    image += rng.randint(-3, 4, size=(height, width, 1))
    kept = [k for k, kind in enumerate(classes) if kind >= 0]
    boxes = np.zeros((len(kept), 4), dtype=np.int64)  # (G, 4)
    areas = np.zeros(len(kept), dtype=np.int64)  # (G,)
    for row, k in enumerate(kept):
        ys, xs = np.nonzero(owner == k)
        boxes[row] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        areas[row] = len(xs)
    pixels_u8 = np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)  # (H, W, 3)
    return Scene(pixels_u8, boxes, np.array([classes[k] for k in kept], dtype=np.int64), areas)

"""Augmentation besides Detectron2's resizing and flip: scale jitter, colour, mosaic.

All random numbers come from numpy's global generator, which is seeded for each sample (``stream``).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from fa_detectron.errors import UserError

_TRIES = 10  # crops; the first one that shows a box is used
_CENTRE = (0.3, 0.7)  # where the four images of a mosaic meet, relative to its size
_Image = tuple[np.ndarray, list[dict[str, Any]]]  # (H, W, 3) uint8, annotations


class ScaleJitter(T.Augmentation):
    """Resizes like ``resize``, times a random factor, and crops to the size without the factor.

    A crop of an image with boxes shows at least one of them; if ten crops do not, the image is only resized.

    Args:
        resize: gives the size at factor 1.
        factors: smallest and largest, drawn log-uniformly.
        min_visible: share of a box's area that must remain for it to count as shown.
    """

    def __init__(self, resize: T.ResizeShortestEdge, factors: tuple[float, float], min_visible: float) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray, boxes: np.ndarray) -> T.Transform:
        """``boxes``: (N, 4) xyxy pixels."""
        height, width = image.shape[:2]
        plain = self.resize.get_transform(image)
        wanted = (plain.new_h, plain.new_w) if isinstance(plain, T.ResizeTransform) else (height, width)
        for _ in range(_TRIES):
            least, most = map(math.log, self.factors)
            factor = math.exp(np.random.uniform(least, most))
            new = [max(1, round(side * factor)) for side in wanted]
            crop = [min(pair) for pair in zip(new, wanted)]
            top, left = (np.random.randint(a - b + 1) for a, b in zip(new, crop))
            jitter = T.TransformList(
                [
                    T.ResizeTransform(height, width, *new, self.resize.interp),
                    T.CropTransform(left, top, crop[1], crop[0], new[1], new[0]),
                ]
            )
            shares = visible_shares(jitter.apply_box(boxes), *crop)
            if not len(boxes) or np.any((shares > 0) & (shares >= self.min_visible)):
                return jitter
        return plain


def visible_shares(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """(N,) share of each box's area inside an image of that size; ``boxes``: (N, 4) xyxy pixels."""
    inside = np.clip(boxes, 0, (width, height, width, height))
    areas, of_inside = ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (boxes, inside))
    return of_inside / np.maximum(areas, 1e-9)


def xyxy_boxes(annotations: Sequence[dict[str, Any]]) -> np.ndarray:
    """(N, 4) float64 xyxy pixels of Detectron2's annotations."""
    boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    return np.array(boxes, dtype=float).reshape(-1, 4)


def train_augmentations(cfg: CfgNode, standard: list[T.Augmentation]) -> list[T.Augmentation]:
    """Detectron2's standard augmentations with INPUT.SCALE_JITTER and COLOR_JITTER, for RGB images.

    Raises:
        UserError: a value outside its range.
    """
    options = cfg.INPUT
    jitter, color = tuple(options.SCALE_JITTER), options.COLOR_JITTER
    is_range = len(jitter) == 2 and 0 < jitter[0] <= jitter[1] < math.inf
    for fits, key, wanted in (
        (not jitter or is_range, "SCALE_JITTER", "(LOW, HIGH), or ()"),
        (0 <= color < 1, "COLOR_JITTER", "at least 0 and below 1"),
        (0 <= options.MIN_VISIBLE <= 1, "MIN_VISIBLE", "from 0 to 1"),
        (0 <= options.MOSAIC <= 1, "MOSAIC", "from 0 to 1"),
    ):
        if not fits:
            raise UserError(f"INPUT.{key} is {options[key]}, but must be {wanted}")
    result = list(standard)
    if jitter:
        at = next(i for i, one in enumerate(result) if isinstance(one, T.ResizeShortestEdge))
        result[at] = ScaleJitter(result[at], jitter, options.MIN_VISIBLE)
    if color:
        span = (1 - color, 1 + color)
        result += [T.RandomBrightness(*span), T.RandomContrast(*span), T.RandomSaturation(*span)]
    return result


def mosaic(parts: Sequence[_Image], min_visible: float) -> _Image:
    """Four images in one, of the size of the first; each is resized and cropped to fill its corner.

    Args:
        parts: (H, W, 3) uint8 and Detectron2's annotations, of four images.
        min_visible: boxes with a smaller share of their area left are dropped.
    """
    height, width = parts[0][0].shape[:2]
    y, x = (round(side * np.random.uniform(*_CENTRE)) for side in (height, width))
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    annotations: list[dict[str, Any]] = []
    corners = ((0, 0, y, x), (0, x, y, width), (y, 0, height, x), (y, x, height, width))
    for (image, found), (top, left, bottom, right) in zip(parts, corners, strict=True):
        tile = (bottom - top, right - left)
        if not all(tile):
            continue  # the mosaic is one pixel high or wide
        fill = _fill(image.shape[:2], tile)
        canvas[top:bottom, left:right] = fill.apply_image(image)
        boxes = fill.apply_box(xyxy_boxes(found)) if found else np.zeros((0, 4))
        shares = visible_shares(boxes, *tile)
        clipped = np.clip(boxes, 0, (tile[1], tile[0], tile[1], tile[0])) + (left, top, left, top)
        annotations += [
            {**annotation, "bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS}
            for annotation, box, share in zip(found, clipped, shares)
            if share > 0 and share >= min_visible
        ]
    return canvas, annotations


def _fill(size: tuple[int, int], tile: tuple[int, int]) -> T.TransformList:
    """Resizes and randomly crops an image of size (height, width) to fill a tile."""
    scale = max(t / s for t, s in zip(tile, size))
    new = [max(t, round(s * scale)) for t, s in zip(tile, size)]
    top, left = (np.random.randint(n - t + 1) for n, t in zip(new, tile))
    return T.TransformList(
        [T.ResizeTransform(*size, *new), T.CropTransform(left, top, tile[1], tile[0], new[1], new[0])]
    )

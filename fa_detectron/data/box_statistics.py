"""The boxes of a checked set in figures: class balance, sizes against the levels' strides, repetitions."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from .records import AnnotatedSet


@dataclass(frozen=True)
class InputSize:
    """How a config scales images, and the grid that it lays over them."""

    short_side: int  # pixels; 0 leaves images as they are
    long_side: int  # pixels, at most
    strides: tuple[int, ...]  # of the levels, finest first, pixels
    offset: float  # of a location from its cell's corner, strides

    def scale(self, width: int, height: int) -> float:
        """The factor by which Detectron2's ResizeShortestEdge resizes an image (before rounding)."""
        if not self.short_side:
            return 1.0
        return min(self.short_side / min(width, height), self.long_side / max(width, height))


@dataclass(frozen=True)
class Level:
    """How many boxes a level can learn from.

    Attributes:
        boxes: boxes with at least one of its locations inside.
        coarsest: those of them with no location of a coarser level inside.
        median: of the number of its locations inside a box, over the boxes that have one.
    """

    stride: int
    boxes: int
    coarsest: int
    median: float


@dataclass(frozen=True)
class BoxStatistics:
    boxes: int  # without crowd boxes, as all figures here
    crowd: int
    without_box: int  # images
    classes: dict[str, tuple[int, int]]  # (boxes, images) of every class
    sizes: tuple[float, ...]  # 5th, 50th, 95th percentile of sqrt(width * height), pixels of the scaled image
    levels: tuple[Level, ...]
    without_location: list[str]  # boxes that lie between the locations of all levels, in words


def box_statistics(data: AnnotatedSet, size: InputSize) -> BoxStatistics:
    """Count the boxes of a set that :func:`fa_detectron.data.checks.clean_boxes` went through."""
    boxes, images = Counter(), Counter()
    rows, places, crowd = [], [], 0
    for image in data.images:
        scale = size.scale(image.width, image.height)
        own = [annotation for annotation in image.annotations if not annotation.iscrowd]
        crowd += len(image.annotations) - len(own)
        boxes.update(annotation.label for annotation in own)
        images.update({annotation.label for annotation in own})
        for annotation in own:
            rows.append([value * scale for value in annotation.box])
            places.append((image, annotation))
    scaled = np.array(rows, dtype=float).reshape(-1, 4)  # (G, 4) xyxy pixels of the scaled images
    inside = locations_inside(scaled, size)  # (L, G)
    finest_to_coarsest = np.arange(len(size.strides))[:, None]
    coarsest = np.where(inside > 0, finest_to_coarsest, -1).max(axis=0) if len(rows) else np.zeros(0)  # (G,)
    sides = np.sqrt(np.prod(scaled[:, 2:] - scaled[:, :2], axis=1))
    lost = [
        f"{image.where(annotation)}: {box[2] - box[0]:.3g}x{box[3] - box[1]:.3g} pixels at the input size"
        for (image, annotation), box, level in zip(places, scaled, coarsest)
        if level < 0
    ]
    return BoxStatistics(
        boxes=len(rows),
        crowd=crowd,
        without_box=sum(not image.annotations for image in data.images),
        classes={name: (boxes[name], images[name]) for name in data.classes},
        sizes=tuple(np.percentile(sides, (5, 50, 95)).tolist()) if len(rows) else (),
        levels=tuple(
            Level(
                stride,
                int((counts > 0).sum()),
                int((coarsest == i).sum()),
                float(np.median(counts[counts > 0])) if (counts > 0).any() else 0.0,
            )
            for i, (stride, counts) in enumerate(zip(size.strides, inside))
        ),
        without_location=lost,
    )


def locations_inside(boxes: np.ndarray, size: InputSize) -> np.ndarray:
    """How many locations of each level lie strictly inside each box, as the loss counts them.

    Args:
        boxes: (G, 4) xyxy pixels of the scaled images.

    Returns:
        (L, G) int.
    """
    counts = []
    for stride in size.strides:
        first = np.maximum(np.floor(boxes[:, :2] / stride - size.offset) + 1, 0)  # (G, 2) of x and y
        last = np.ceil(boxes[:, 2:] / stride - size.offset) - 1
        counts.append(np.maximum(last - first + 1, 0).prod(axis=1))
    return np.array(counts, dtype=np.int64).reshape(len(size.strides), len(boxes))


def repeated_boxes(data: AnnotatedSet) -> list[str]:
    """Boxes that an image has twice, with the same class, in words."""
    found = []
    for image in data.images:
        seen = set()
        for annotation in image.annotations:
            key = (annotation.label, annotation.box, annotation.iscrowd)
            if key in seen:
                found.append(f"{image.where(annotation)}: {', '.join(f'{v:g}' for v in annotation.box)}")
            seen.add(key)
    return found

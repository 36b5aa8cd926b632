"""Statistics of the boxes of a checked set: class balance, and sizes relative to the levels' strides."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode

from fa_detectron.data.findings import Findings
from fa_detectron.data.records import AnnotatedSet, Annotation, ImageRecord
from fa_detectron.errors import UserError

LOST_SHARE = 0.01  # in every set of small objects some boxes lie between the locations; more is a problem
_LARGEST = 2048  # pixels, the largest short side that is worth advising


@dataclass(frozen=True)
class InputSize:
    """How a config scales images, and its grid of locations."""

    short_side: int  # pixels; 0 leaves images as they are
    long_side: int  # pixels, at most
    strides: tuple[int, ...]  # of the levels, finest first, pixels
    offset: float  # of a location from its cell's corner, strides

    def scale(self, width: int, height: int) -> float:
        """The factor by which Detectron2's ResizeShortestEdge resizes an image (before rounding)."""
        if not self.short_side:
            return 1.0
        return min(self.short_side / min(width, height), self.long_side / max(width, height))


def input_size(cfg: CfgNode, training: bool = False) -> InputSize:
    """The input size and the levels of a config; P3 to P7 have the strides 8 to 128.

    Args:
        training: the smallest training size, instead of that of the evaluation.

    Raises:
        UserError: MODEL.FEATURE_ALIGN.IN_FEATURES are not named like p3.
    """
    levels = cfg.MODEL.FEATURE_ALIGN.IN_FEATURES
    if not all(name[:1] == "p" and name[1:].isdigit() for name in levels):
        raise UserError(f"MODEL.FEATURE_ALIGN.IN_FEATURES {levels}: expected names like p3")
    strides = tuple(2 ** int(name[1:]) for name in levels)
    sizes = cfg.INPUT
    short, long = (
        (min(sizes.MIN_SIZE_TRAIN), sizes.MAX_SIZE_TRAIN) if training else (sizes.MIN_SIZE_TEST, sizes.MAX_SIZE_TEST)
    )
    return InputSize(short, long, strides, cfg.MODEL.FEATURE_ALIGN.LOCATION_OFFSET)


@dataclass(frozen=True)
class Level:
    """The boxes that a level can learn from.

    Attributes:
        boxes: boxes with at least one of its locations inside.
        coarsest: those of them with no location of a coarser level inside.
        median: median number of its locations inside a box, over the boxes that have one.
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
    without_location: list[str]  # messages about boxes between the locations of all levels


def box_statistics(data: AnnotatedSet, size: InputSize) -> BoxStatistics:
    """The statistics of a set whose boxes :func:`fa_detectron.data.checks.boxes.clean_boxes` has checked."""
    boxes, images = Counter(), Counter()
    rows, places, crowd = [], [], 0
    for image in data.images:
        scale = size.scale(image.width, image.height)
        own = _boxes(image)
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
    """The number of locations of each level strictly inside each box, as the loss counts them.

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


def size_that_serves(data: AnnotatedSet, size: InputSize, share: float) -> int:
    """The smallest short side, in steps of 64 pixels, at which at most ``share`` of the boxes hold no location.

    The long side grows in proportion. 0 if no size up to 2048 pixels suffices.

    Args:
        data: with checked boxes.
        size: the current one.
    """
    scales = np.array([[size.scale(image.width, image.height)] for image in data.images for _ in _boxes(image)])
    boxes = np.array([a.box for image in data.images for a in _boxes(image)], dtype=float).reshape(-1, 4)
    for side in range(size.short_side // 64 * 64 + 64, _LARGEST + 1, 64):
        inside = locations_inside(boxes * scales * (side / size.short_side), size)
        if (inside.max(axis=0) == 0).mean() <= share:
            return side
    return 0


def _boxes(image: ImageRecord) -> list[Annotation]:
    """The boxes that the detector learns from."""
    return [annotation for annotation in image.annotations if not annotation.iscrowd]


def report_lost_boxes(data: AnnotatedSet, statistics: BoxStatistics, size: InputSize, findings: Findings) -> None:
    """Report boxes that contain no location: a note for a few of them, a problem for more than LOST_SHARE."""
    lost = statistics.without_location
    if not lost:
        return
    share = len(lost) / statistics.boxes
    add, remedy = (findings.problem if share >= LOST_SHARE else findings.note), ""
    if share >= LOST_SHARE and size.short_side:
        larger = size_that_serves(data, size, LOST_SHARE)
        remedy = f"--size {larger} would leave at most {LOST_SHARE:.0%}." if larger else "Cut the images into tiles."
    add(
        data.path,
        f"boxes ({share:.2%}) that contain no location at the input size (short side {size.short_side}), so that "
        "nothing is learnt from them",
        lost,
        remedy,
    )

"""How well scores and predicted boxes agree; the definitions stand in docs/explain.md.

Legend: G boxes of one image, S pairs (box, location) with the location inside the box.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BoxAlignment:
    """The boxes of one image.

    Attributes:
        measured: (G,) bool, false for boxes that are left out; these have NaN and -1 in the others.
        misalignment: (G,) float64, 0 to 1: the share of the best box's quality that the best score loses.
        rank_agreement: (G,) float64, -1 to 1: Spearman's correlation of score and quality.
        best_scored, best_box: (G,) int64, the locations of the highest score and of the highest quality.
    """

    measured: Tensor
    misalignment: Tensor
    rank_agreement: Tensor
    best_scored: Tensor
    best_box: Tensor


@dataclass(frozen=True)
class Alignment:
    """The mean over the measured boxes of one or more images, NaN where there is none.

    Attributes:
        images, boxes, left_out: images looked at, boxes measured, boxes that offer no choice of location.
        misalignment, rank_agreement: means over the boxes.
    """

    images: int
    boxes: int
    left_out: int
    misalignment: float
    rank_agreement: float


def align_boxes(box: Tensor, location: Tensor, score: Tensor, quality: Tensor, classes: Tensor) -> BoxAlignment:
    """Measure the boxes of one image.

    Args:
        box, location: (S,) int64, the pairs, ordered by box.
        score, quality: (S,) q[a, c_g] and R[g, a] of the pairs.
        classes: (G,) int64, of the boxes.
    """
    count = len(classes)
    # A location in two boxes of one class belongs to neither.
    claim = location * (int(classes.max()) + 1 if count else 1) + classes[box]  # (S,)
    _, position, claims = claim.unique(return_inverse=True, return_counts=True)
    own = claims[position] == 1
    result = BoxAlignment(
        torch.zeros(count, dtype=torch.bool),
        torch.full((count,), torch.nan, dtype=torch.float64),
        torch.full((count,), torch.nan, dtype=torch.float64),
        torch.full((count,), -1),
        torch.full((count,), -1),
    )
    for g in range(count):
        chosen = ((box == g) & own).nonzero().squeeze(1)
        if len(chosen) < 2:
            continue
        q, r = score[chosen].double(), quality[chosen].double()
        best = q == q.max()
        result.measured[g] = True
        # R is exp(-10) at least where a box is nowhere near the object: never 0.
        result.misalignment[g] = 1 - r[best].mean() / r.max()
        result.rank_agreement[g] = _rank_correlation(q, r)
        result.best_scored[g] = location[chosen[q.argmax()]]
        result.best_box[g] = location[chosen[r.argmax()]]
    return result


def average(images: Iterable[BoxAlignment]) -> Alignment:
    """Mean over all measured boxes of the images."""
    images = list(images)
    measured = [image.measured for image in images]
    boxes = sum(int(m.sum()) for m in measured)

    def mean(name: str) -> float:
        total = sum(float(getattr(image, name)[m].sum()) for image, m in zip(images, measured))
        return total / boxes if boxes else float("nan")

    left_out = sum(len(m) for m in measured) - boxes
    return Alignment(len(images), boxes, left_out, mean("misalignment"), mean("rank_agreement"))


def _mean_rank(values: Tensor) -> Tensor:
    """Ranks from 0 of ``values`` (n,), float64; equal values share their mean rank."""
    _, position, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0) - 1
    return (last - (counts - 1) / 2).double()[position]


def _rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's correlation of (n,) and (n,), 0 where all values of one are equal."""
    a, b = (rank - rank.mean() for rank in (_mean_rank(a), _mean_rank(b)))
    scale = (a.square().sum() * b.square().sum()).sqrt()
    return (a * b).sum() / scale if scale > 0 else scale

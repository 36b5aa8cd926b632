"""What the loss weighs: the quantities of every location and of every pair (box, location) inside.

Sources: "Feature Alignment in Anchor-Free Object Detection" (TCSVT 2023), "AutoAssign" (arXiv 2007.03496).
Legend: N images, L levels, K classes, A locations of all levels, G boxes of one image, S pairs (box, location) with
the location inside the box. Only those pairs carry a weight, so no (G, A) float tensor is ever made.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .box import EPS, paired_iou
from .grid import level_locations

BOXES_AT_ONCE = 32  # of an image against all its locations: bounds the memory


@dataclass
class Grid:
    """The locations of all levels together."""

    location: Tensor  # (A, 2) pixels, as (x, y)
    level: Tensor  # (A,) index of the level
    stride: Tensor  # (A,) pixels


@dataclass
class Pairs:
    """The pairs of one image whose location lies inside the box, ordered by box, then by location."""

    box: Tensor  # (S,) index into the image's boxes
    location: Tensor  # (S,) index into the locations
    gaussian: Tensor  # (S,) N[g, a]


def make_grid(sizes: list[tuple[int, int]], strides: Sequence[int], offset: float, like: Tensor) -> Grid:
    locations = [level_locations(h, w, s, offset, like) for (h, w), s in zip(sizes, strides, strict=True)]
    counts = torch.tensor([len(x) for x in locations], device=like.device)
    level = torch.repeat_interleave(torch.arange(len(sizes), device=like.device), counts)
    stride = torch.tensor([float(s) for s in strides], dtype=like.dtype, device=like.device)
    return Grid(torch.cat(locations), level, stride[level])


def _flatten(levels: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Maps (N, C, H, W) of all levels to (N, A, C)."""
    return torch.cat([x.to(dtype).flatten(2).transpose(1, 2) for x in levels], dim=1)


def flatten_maps(
    cls_logits: list[Tensor],
    box_ltrb: list[Tensor],
    obj_logits: list[Tensor],
    strides: Sequence[int],
    location_offset: float,
) -> tuple[Grid, Tensor, Tensor]:
    """The head's maps, a level each (N, K | 4 | 1, H, W), as quantities of the locations; at least float32.

    Returns:
        The grid; the scores q (N, A, K); the predicted boxes (N, A, 4), xyxy pixels.
    """
    dtype = torch.promote_types(cls_logits[0].dtype, torch.float32)
    grid = make_grid([tuple(x.shape[-2:]) for x in cls_logits], strides, location_offset, cls_logits[0].to(dtype))
    score = _flatten(cls_logits, dtype).sigmoid() * _flatten(obj_logits, dtype).sigmoid()  # (N, A, K)
    ltrb = _flatten(box_ltrb, dtype)  # (N, A, 4)
    prediction = torch.cat([grid.location - ltrb[..., :2], grid.location + ltrb[..., 2:]], dim=2)  # (N, A, 4)
    return grid, score, prediction


def find_pairs(grid: Grid, boxes: Tensor, classes: Tensor, mu: Tensor, sigma: Tensor) -> Pairs:
    """The pairs of one image: ``boxes`` (G, 4) xyxy pixels, ``classes`` (G,); the priors (K, 2) or (L, K, 2)."""
    x, y = grid.location.unbind(1)
    found = []
    for start, some in zip(range(0, max(1, len(boxes)), BOXES_AT_ONCE), boxes.split(BOXES_AT_ONCE)):
        x1, y1, x2, y2 = some.unsqueeze(2).unbind(1)  # each (B, 1), B of the G boxes
        inside = (x > x1) & (y > y1) & (x < x2) & (y < y2)  # (B, A)
        box, location = inside.nonzero().unbind(1)
        found.append((box + start, location))
    box, location = (torch.cat(parts) for parts in zip(*found))  # each (S,)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    u = (grid.location[location] - centre[box]) / grid.stride[location].unsqueeze(1)  # (S, 2) cells
    if mu.dim() == 2:  # one Gaussian a class, shared by the levels
        mean, deviation = mu[classes[box]], sigma[classes[box]]
    else:  # MDQ: one a level and class
        mean, deviation = mu[grid.level[location], classes[box]], sigma[grid.level[location], classes[box]]
    variance = deviation.square().clamp(min=1e-6)
    gaussian = torch.exp(-(u - mean).square() / (2 * variance)).prod(dim=1)
    return Pairs(box, location, gaussian)


def regression_quality(prediction: Tensor, boxes: Tensor, iou_type: str = "giou", reg_weight: float = 5.0) -> Tensor:
    """R of predicted boxes against ground truth, both (..., 4) xyxy pixels; the defaults are the published form."""
    iou, giou = paired_iou(prediction, boxes)
    if iou_type == "iou":
        return iou.clamp(min=EPS).pow(reg_weight)
    return torch.exp(-reg_weight * (1 - (giou if iou_type == "giou" else iou)))


def pair_confidence(score: Tensor, quality: Tensor, feature_filter: bool) -> Tensor:
    """P of pairs from their q and R, each (S,): the product, with FF weighted by the misalignment score."""
    joint = score * quality
    if not feature_filter:
        return joint
    misalignment = (score - quality).square()
    return joint * (2 - misalignment) / 2


def bag_weights(pairs: Pairs, confidence: Tensor, num_boxes: int) -> Tensor:
    """W (S,): the pairs' foreground weights, which sum to 1 over each box's bag; ``confidence`` is P (S,)."""
    w = torch.exp(3 * confidence) * pairs.gaussian
    bag_sum = w.new_zeros(num_boxes).index_add(0, pairs.box, w)
    return w / bag_sum.clamp(min=1e-12)[pairs.box]

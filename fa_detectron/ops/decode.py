"""From the head's maps to detections: FeatureAlign's and AutoAssign's inference (method section 5)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import reference
from .arguments import check_head_maps


@torch.no_grad()
def decode_detections(
    cls_logits: list[Tensor],
    box_ltrb: list[Tensor],
    obj_logits: list[Tensor],
    strides: Sequence[int],
    *,
    location_offset: float = 0.0,
    score_threshold: float = 0.05,
    topk: int = 1000,
    nms_threshold: float = 0.6,
    max_detections: int = 100,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Detections of a batch; no gradient.

    The score of class c at a location is sigmoid(class logit) * sigmoid(objectness logit). A level passes on its best
    min(topk, H*W) (location, class) pairs above ``score_threshold``; class-wise NMS drops boxes that overlap a better
    one by an IoU above ``nms_threshold``; the best ``max_detections`` of all levels remain.

    Args:
        cls_logits, box_ltrb, obj_logits: a level, (N, K, H, W), (N, 4, H, W) in pixels, (N, 1, H, W).
        strides: a level, pixels.
        location_offset: cell (i, j) stands at ((j + offset) * stride, (i + offset) * stride).

    Returns:
        An image, (boxes (D, 4) xyxy pixels, neither clipped nor rescaled; scores (D,), falling; classes (D,) int64).
        Equal scores keep the order of levels, then of (row, column, class). Half-precision maps give float32.

    Raises:
        ValueError: a shape, dtype or device does not fit, or a limit is negative.
    """
    check_head_maps(cls_logits, box_ltrb, obj_logits, strides)
    if topk < 0 or max_detections < 0:
        raise ValueError(f"topk and max_detections must not be negative, got {topk} and {max_detections}")
    return reference.decode_detections(
        cls_logits,
        box_ltrb,
        obj_logits,
        strides,
        location_offset=location_offset,
        score_threshold=score_threshold,
        topk=topk,
        nms_threshold=nms_threshold,
        max_detections=max_detections,
    )

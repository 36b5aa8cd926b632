"""Detections from the head's maps in plain PyTorch: score, select per level, decode, class-wise NMS.

Legend: N images, K classes, D detections of one image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import nms

from .grid import level_locations


def _select_level(
    scores: Tensor, ltrb: Tensor, locations: Tensor, score_threshold: float, topk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best candidates of one level. ``scores`` (H*W, K), ``ltrb`` (H*W, 4), ``locations`` (H*W, 2), pixels."""
    flat = scores.flatten()  # (H*W*K,)
    candidate = (flat > score_threshold).nonzero().squeeze(1)
    # A stable sort, not topk: equal scores keep the order of their locations on every device.
    order = flat[candidate].sort(descending=True, stable=True).indices[: min(topk, len(scores))]
    candidate = candidate[order]
    place, label = candidate // scores.shape[1], candidate % scores.shape[1]
    boxes = torch.cat([locations[place] - ltrb[place, :2], locations[place] + ltrb[place, 2:]], dim=1)  # xyxy
    return boxes, flat[candidate], label


def _class_wise_nms(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Tensor:
    """Indices of the kept boxes in the order given. Class by class: shifted coordinates would round the IoU."""
    kept = [
        members[nms(boxes[members], scores[members], threshold)]
        for members in ((classes == c).nonzero().squeeze(1) for c in classes.unique())
    ]
    return torch.cat(kept).sort().values if kept else classes.new_zeros(0)


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
    """The oracle of :func:`fa_detectron.ops.decode_detections`; same arguments, same result."""
    dtype = torch.promote_types(cls_logits[0].dtype, torch.float32)
    levels = []  # a level: scores (N, H*W, K), ltrb (N, H*W, 4), locations (H*W, 2)
    for cls, box, obj, stride in zip(cls_logits, box_ltrb, obj_logits, strides, strict=True):
        scores = (cls.to(dtype).sigmoid() * obj.to(dtype).sigmoid()).flatten(2).transpose(1, 2)
        locations = level_locations(*cls.shape[-2:], stride, location_offset, scores)
        levels.append((scores, box.to(dtype).flatten(2).transpose(1, 2), locations))

    detections = []
    for image in range(cls_logits[0].shape[0]):
        picked = [
            _select_level(scores[image], ltrb[image], locations, score_threshold, topk)
            for scores, ltrb, locations in levels
        ]
        boxes, scores, classes = (torch.cat(parts) for parts in zip(*picked, strict=True))
        order = scores.sort(descending=True, stable=True).indices
        boxes, scores, classes = boxes[order], scores[order], classes[order]
        keep = _class_wise_nms(boxes, scores, classes, nms_threshold)[:max_detections]
        detections.append((boxes[keep], scores[keep], classes[keep]))
    return detections

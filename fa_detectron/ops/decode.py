"""From the head's maps to detections: FeatureAlign's and AutoAssign's inference (method section 5)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import native, reference
from .arguments import check_devices, check_head_maps
from .library import cast, prepare, register_autocast, register_default, register_native

_CUDA_IMAGES = 65535  # csrc/decode/cuda/launch.h


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

    The score of class c at a location is sigmoid(class logit) * sigmoid(objectness logit). Each level passes on its
    best min(topk, H*W) (location, class) pairs above ``score_threshold``; class-wise NMS drops boxes that overlap a
    better one by an IoU above ``nms_threshold``; the best ``max_detections`` of all levels remain.

    Args:
        cls_logits, box_ltrb, obj_logits: per level (N, K, H, W), (N, 4, H, W) pixels, (N, 1, H, W).
        strides: one number per level, pixels.
        location_offset: cell (i, j) stands at ((j + offset) * stride, (i + offset) * stride).

    Returns:
        Per image, (boxes (D, 4) xyxy pixels, neither clipped nor rescaled; scores (D,), falling; classes (D,) int64).
        Equal scores keep the order of levels, then of (row, column, class). Half-precision maps give float32.

    Raises:
        ValueError: a shape, dtype or device does not fit, or a limit is negative.
    """
    check_head_maps(cls_logits, box_ltrb, obj_logits, strides)
    if topk < 0 or max_detections < 0:
        raise ValueError(f"topk and max_detections must not be negative, got {topk} and {max_detections}")
    prepare(cls_logits[0])
    dtype = torch.promote_types(cls_logits[0].dtype, torch.float32)
    maps = [[x.to(dtype) for x in levels] for levels in (cls_logits, box_ltrb, obj_logits)]
    # The CUDA kernels order scores by the bits of a float32.
    wide_on_gpu = dtype == torch.float64 and cls_logits[0].device.type == "cuda"
    within = native.within_cuda_limits(cls_logits, _CUDA_IMAGES) and not wide_on_gpu
    operator = torch.ops.fa_detectron.decode_detections if within else _default
    options = (float(location_offset), float(score_threshold), topk, float(nms_threshold), max_detections)
    *padded, counts = operator(*maps, [float(s) for s in strides], *options)
    # The only look at the values from the host.
    return [tuple(x[image, :count] for x in padded) for image, count in enumerate(counts.tolist())]


def _default(cls_logits, box_ltrb, obj_logits, strides, offset, threshold, topk, nms_threshold, max_detections):
    found = reference.decode_detections(
        cls_logits,
        box_ltrb,
        obj_logits,
        strides,
        location_offset=offset,
        score_threshold=threshold,
        topk=topk,
        nms_threshold=nms_threshold,
        max_detections=max_detections,
    )
    boxes, scores, classes, counts = (x.zero_() for x in _empty(cls_logits, topk, max_detections))
    for image, parts in enumerate(found):
        counts[image] = len(parts[0])
        for to, part in zip((boxes, scores, classes), parts, strict=True):
            to[image, : len(part)] = part
    return boxes, scores, classes, counts


def _empty(cls_logits: list[Tensor], topk: int, max_detections: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes, scores, classes (N, D, ...) and counts (N,), D the most detections that an image can have."""
    like = cls_logits[0]
    most = sum(torch.sym_min(topk, x.shape[2] * x.shape[3]) for x in cls_logits)
    size = (like.shape[0], torch.sym_min(most, max_detections))
    integers = [like.new_empty(shape, dtype=torch.int64) for shape in (size, size[:1])]
    return like.new_empty((*size, 4)), like.new_empty(size), *integers


def _fake(cls_logits, box_ltrb, obj_logits, strides, offset, threshold, topk, nms_threshold, max_detections):
    check_devices("decode_detections", cls_logits, box_ltrb, obj_logits)
    return _empty(cls_logits, topk, max_detections)


register_default("decode_detections", _default)
register_autocast("decode_detections", lambda _, arguments: cast(arguments, torch.float32))
register_native("decode_detections", _fake)

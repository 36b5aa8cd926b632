"""From the head's maps to detections: FeatureAlign's and AutoAssign's inference (method section 5)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import native, reference
from .arguments import check_devices, check_head_maps

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
    # The CUDA kernels order scores by the bits of a float32.
    wide_on_gpu = cls_logits[0].dtype == torch.float64 and cls_logits[0].device.type == "cuda"
    natively = (
        native.use(*cls_logits, *box_ltrb, *obj_logits)
        and native.within_cuda_limits(cls_logits, _CUDA_IMAGES)
        and not wide_on_gpu
    )
    implementation = _native_decode if natively else reference.decode_detections
    return implementation(
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


def _native_decode(
    cls_logits: list[Tensor],
    box_ltrb: list[Tensor],
    obj_logits: list[Tensor],
    strides: Sequence[int],
    *,
    location_offset: float,
    score_threshold: float,
    topk: int,
    nms_threshold: float,
    max_detections: int,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    dtype = torch.promote_types(cls_logits[0].dtype, torch.float32)
    maps = [[x.to(dtype) for x in levels] for levels in (cls_logits, box_ltrb, obj_logits)]
    options = (float(location_offset), float(score_threshold), topk, float(nms_threshold), max_detections)
    *padded, counts = torch.ops.fa_detectron.decode_detections(*maps, [float(s) for s in strides], *options)
    # The only look at the values from the host.
    return [tuple(x[image, :count] for x in padded) for image, count in enumerate(counts.tolist())]


def _fake_decode(cls_logits, box_ltrb, obj_logits, strides, offset, threshold, topk, nms_threshold, max_detections):
    check_devices("decode_detections", cls_logits, box_ltrb, obj_logits)
    first = cls_logits[0]
    most = sum(torch.sym_min(topk, x.shape[2] * x.shape[3]) for x in cls_logits)
    size = (first.shape[0], torch.sym_min(most, max_detections))
    counts = first.new_empty(first.shape[0], dtype=torch.int64)
    return first.new_empty((*size, 4)), first.new_empty(size), first.new_empty(size, dtype=torch.int64), counts


if native.loaded():
    torch.library.register_fake("fa_detectron::decode_detections", _fake_decode)
    native.refuse_vmap("decode_detections")
    for _device in ("cpu", "cuda"):
        torch.library.register_autocast("fa_detectron::decode_detections", _device, torch.float32)

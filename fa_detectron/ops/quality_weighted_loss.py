"""The per-location quality weighting of FeatureAlign and AutoAssign, as one differentiable op."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import native, reference
from .arguments import check_devices, check_head_maps
from .library import cast, prepare, register_autocast, register_default, register_native
from .reference.quality_weighted_loss import loss_divisors

LOSSES = ("loss_pos", "loss_neg", "loss_norm")
IOU_TYPES = ("giou", "linear_iou", "iou")
_CUDA_IMAGES = 256  # csrc/quality_loss/cuda/launch.h


def _check_ground_truth(
    cls_logits: list[Tensor], gt_boxes: list[Tensor], gt_classes: list[Tensor], mu: Tensor, sigma: Tensor
) -> None:
    (n, k), device = cls_logits[0].shape[:2], cls_logits[0].device
    if len(gt_boxes) != n or len(gt_classes) != n:
        raise ValueError(
            f"gt_boxes and gt_classes need one entry an image ({n}), got {len(gt_boxes)} and {len(gt_classes)}"
        )
    for image, (boxes, classes) in enumerate(zip(gt_boxes, gt_classes, strict=True)):
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            raise ValueError(f"gt_boxes[{image}] must be (G, 4) xyxy pixels, got {tuple(boxes.shape)}")
        if tuple(classes.shape) != (len(boxes),):
            raise ValueError(f"gt_classes[{image}] must be ({len(boxes)},), got {tuple(classes.shape)}")
        if classes.is_floating_point() or classes.dtype == torch.bool:
            raise ValueError(f"gt_classes[{image}] must hold integers, got {classes.dtype}")
        for name, tensor in (("gt_boxes", boxes), ("gt_classes", classes)):
            if tensor.device != device:
                raise ValueError(f"{name}[{image}] is on {tensor.device}, cls_logits[0] on {device}")
        # On a GPU a look at the values would stop the host, in a compiled graph it would cut the graph.
        readable = classes.device.type == "cpu" and not torch.compiler.is_compiling()
        if readable and len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < k:
            raise ValueError(f"gt_classes[{image}] must lie in [0, {k}) for {k} classes, got {classes.tolist()}")
    shapes = ((k, 2), (len(cls_logits), k, 2))
    for name, parameter in (("mu", mu), ("sigma", sigma)):
        if tuple(parameter.shape) not in shapes:
            raise ValueError(
                f"{name} must be (K, 2) = {shapes[0]} or (L, K, 2) = {shapes[1]}, got {tuple(parameter.shape)}"
            )
        if parameter.device != device:
            raise ValueError(f"{name} is on {parameter.device}, cls_logits[0] on {device}")
    if mu.shape != sigma.shape:
        raise ValueError(f"mu and sigma differ in shape: {tuple(mu.shape)} and {tuple(sigma.shape)}")


def quality_weighted_loss(
    cls_logits: list[Tensor],
    box_ltrb: list[Tensor],
    obj_logits: list[Tensor],
    gt_boxes: list[Tensor],
    gt_classes: list[Tensor],
    mu: Tensor,
    sigma: Tensor,
    strides: Sequence[int],
    *,
    feature_filter: bool = True,
    quality_prior: bool = True,
    location_offset: float = 0.0,
    focal_alpha: float = 0.25,
    focal_gamma: float = 2.0,
    reg_weight: float = 5.0,
    iou_type: str = "giou",
    normalizers: tuple[float | Tensor, float | Tensor] | None = None,
    reduce: bool = False,
) -> dict[str, Tensor]:
    """Losses of one batch ("Feature Alignment in Anchor-Free Object Detection"; AutoAssign, arXiv 2007.03496, eq. 7).

    Args:
        cls_logits: one (N, K, H, W) tensor per level.
        box_ltrb: one (N, 4, H, W) tensor per level, distances to the left, top, right and bottom side in pixels, >= 0.
        obj_logits: one (N, 1, H, W) tensor per level.
        gt_boxes: one (G, 4) tensor per image, xyxy pixels; G may be 0. No gradient.
        gt_classes: one (G,) int64 tensor per image, in [0, K).
        mu, sigma: the Gaussian priors in cells, (K, 2), or (L, K, 2) with one row a level (MDQ). Only sigma^2 enters,
            floored at 1e-6.
        strides: one number per level, pixels.
        feature_filter: the misalignment score weighs the joint quality (FF).
        quality_prior: FeatureAlign's prior term, weighted by the predicted quality; else AutoAssign's.
        location_offset: cell (i, j) stands at ((j + offset) * stride, (i + offset) * stride).
        focal_alpha, focal_gamma: of the focal loss; gamma is 0 or at least 1.
        reg_weight: exponent of the regression quality.
        iou_type: "giou", "linear_iou" or "iou", the overlap behind the regression quality.
        normalizers: the divisors of the foreground and the background loss, used as they are (gradient accumulation
            takes those of the whole batch, ``quality_normalizers``). None: from this batch, at least 1.
        reduce: average the divisors over the workers of torch.distributed (one all-reduce).

    Returns:
        0-dim tensors ``loss_pos``, ``loss_neg``, ``loss_norm``, float32 (float64 for float64 maps). Half-precision maps
        are computed in float32. Maps, mu and sigma always receive a gradient.

    Raises:
        ValueError: a shape, dtype or device does not fit, or an option is unknown.
    """
    check_head_maps(cls_logits, box_ltrb, obj_logits, strides)
    _check_ground_truth(cls_logits, gt_boxes, gt_classes, mu, sigma)
    if iou_type not in IOU_TYPES:
        raise ValueError(f"iou_type must be one of {', '.join(IOU_TYPES)}, got {iou_type!r}")
    if focal_gamma != 0 and not focal_gamma >= 1:
        raise ValueError(f"focal_gamma must be 0 or at least 1, got {focal_gamma}")
    prepare(cls_logits[0])
    dtype = torch.promote_types(cls_logits[0].dtype, torch.float32)
    maps = [[x.to(dtype) for x in levels] for levels in (cls_logits, box_ltrb, obj_logits)]
    # Parts of one tensor each, which the three CUDA operators need not join.
    counts = [len(boxes) for boxes in gt_boxes]
    truth = [list(torch.cat(parts).detach().split(counts)) if counts else [] for parts in (gt_boxes, gt_classes)]
    truth[0] = [boxes.to(dtype) for boxes in truth[0]]
    mu, sigma = mu.to(dtype), sigma.to(dtype)
    options = ([float(s) for s in strides], float(location_offset), feature_filter, quality_prior, float(reg_weight))
    operators = torch.ops.fa_detectron
    within = native.within_cuda_limits(cls_logits, _CUDA_IMAGES)
    of_statistics = operators.quality_statistics if within else _default_statistics
    of_loss = operators.quality_loss if within else _default_loss
    statistics, max_iou, background = of_statistics(
        *([x.detach() for x in levels] for levels in maps), *truth, mu.detach(), sigma.detach(), *options, iou_type
    )
    if normalizers is None:
        divisors = loss_divisors(sum(counts), background, reduce)  # (2,)
    else:
        divisors = torch.stack([_float64_like(x, background) for x in normalizers])
    focal = float(focal_alpha), float(focal_gamma)
    losses = of_loss(*maps, *truth, mu, sigma, statistics, max_iou, divisors, *options, iou_type, *focal)
    return dict(zip(LOSSES, losses.unbind(), strict=True))


def _float64_like(value: float | Tensor, like: Tensor) -> Tensor:
    """0-dim float64 on the device of ``like``, made there: a copy from the host would make a GPU wait."""
    if isinstance(value, Tensor):
        return value.detach().to(like).reshape(())
    return torch.full((), float(value), dtype=torch.float64, device=like.device)


def _default_statistics(
    cls_logits, box_ltrb, obj_logits, gt_boxes, gt_classes, mu, sigma, strides, location_offset, *options
) -> tuple[Tensor, Tensor, Tensor]:
    statistics, max_iou, _ = _fake_statistics(cls_logits, box_ltrb, obj_logits, gt_boxes, gt_classes, mu, sigma)
    background = reference.num_background(cls_logits, gt_boxes, gt_classes, mu, sigma, strides, location_offset)
    return statistics.zero_(), max_iou.zero_(), background  # _default_loss needs neither of the first two


def _default_loss(
    cls_logits, box_ltrb, obj_logits, gt_boxes, gt_classes, mu, sigma, statistics, max_iou, divisors, strides,
    location_offset, feature_filter, quality_prior, reg_weight, iou_type, focal_alpha, focal_gamma,
) -> Tensor:  # fmt: skip
    losses = reference.quality_weighted_loss(
        cls_logits,
        box_ltrb,
        obj_logits,
        gt_boxes,
        gt_classes,
        mu,
        sigma,
        strides,
        location_offset=location_offset,
        feature_filter=feature_filter,
        quality_prior=quality_prior,
        reg_weight=reg_weight,
        iou_type=iou_type,
        focal_alpha=focal_alpha,
        focal_gamma=focal_gamma,
        normalizers=tuple(divisors.unbind()),
    )
    return torch.stack([losses[name] for name in LOSSES]).to(cls_logits[0].dtype)  # not the divisors'


def _fake_statistics(
    cls_logits, box_ltrb, obj_logits, gt_boxes, gt_classes, mu, sigma, *options
) -> tuple[Tensor, Tensor, Tensor]:
    check_devices("quality_statistics", cls_logits, box_ltrb, obj_logits, gt_boxes, gt_classes, mu, sigma)
    maps = cls_logits[0]
    boxes = sum(x.shape[0] for x in gt_boxes)
    locations = sum(x.shape[2] * x.shape[3] for x in cls_logits)
    return (
        maps.new_empty((boxes, 9), dtype=torch.float64),
        maps.new_empty((maps.shape[0], locations)),
        maps.new_empty((), dtype=torch.float64),
    )


def _fake_loss(cls_logits, *rest) -> Tensor:
    check_devices("quality_loss", cls_logits, *rest[:9])  # the tensors end with the divisors
    return cls_logits[0].new_empty(3)


def _fake_forward(cls_logits, box_ltrb, obj_logits, *rest) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    check_devices("quality_loss_forward", cls_logits, box_ltrb, obj_logits, *rest[:7])
    with_gradient = rest[-1]
    maps = (cls_logits, obj_logits) if with_gradient else ([], [])
    cls, obj = ([x.new_empty(x.shape) for x in levels] for levels in maps)
    return cls_logits[0].new_empty(3), cls, obj


def _fake_backward(*arguments) -> None:
    """It writes into its last arguments."""


register_default("quality_statistics", _default_statistics)
register_default("quality_loss", _default_loss)
for _name in ("quality_statistics", "quality_loss"):
    # In half precision the small differences that weigh the negatives would be lost.
    register_autocast(_name, lambda _, arguments: cast(arguments, torch.float32))
register_native("quality_statistics", _fake_statistics)
register_native("quality_loss", _fake_loss)
register_native("quality_loss_forward", _fake_forward)
register_native("quality_loss_backward", _fake_backward)

"""The quality-weighted loss of FeatureAlign and AutoAssign in plain PyTorch.

Sources: "Feature Alignment in Anchor-Free Object Detection" (TCSVT 2023), "AutoAssign" (arXiv 2007.03496).
Legend: N images, L levels, K classes, A locations of all levels, G boxes of one image, S pairs (box, location) with
the location inside the box. Only those pairs carry a weight, so no (G, A) float tensor is ever made.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from .box import paired_iou
from .quality import (
    BOXES_AT_ONCE,
    Pairs,
    bag_weights,
    find_pairs,
    flatten_maps,
    make_grid,
    pair_confidence,
    regression_quality,
)


class _BinaryCrossEntropy(torch.autograd.Function):
    """torch's binary_cross_entropy in value and gradient, but a NaN stays a NaN instead of raising on the CPU."""

    @staticmethod
    def forward(ctx, probability: Tensor, target: float) -> Tensor:
        ctx.save_for_backward(probability)
        ctx.target = target
        log = probability.log() if target else torch.log1p(-probability)
        return -log.clamp(min=-100)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (p,) = ctx.saved_tensors
        return grad * (p - ctx.target) / (p * (1 - p)).clamp(min=1e-12), None


def _scale_per_box(excess: Tensor, box: Tensor, num_boxes: int) -> Tensor:
    """``excess`` (S,), each box's values above its smallest, scaled to (0, 1] over the box's locations."""
    highest = excess.new_zeros(num_boxes).scatter_reduce(0, box, excess, "amax")
    return (excess + 1e-12) / (highest[box] + 1e-12)


def _lowest_per_box(value: Tensor, box: Tensor, num_boxes: int) -> Tensor:
    lowest = value.new_full((num_boxes,), float("inf")).scatter_reduce(0, box, value, "amin")
    return lowest[box]


def _max_iou(prediction: Tensor, boxes: Tensor) -> Tensor:
    """Each predicted box's (A, 4) largest IoU with any of the image's boxes (G, 4), G >= 1: (A,)."""
    best = prediction.new_zeros(len(prediction))
    for some in boxes.split(BOXES_AT_ONCE):
        best = torch.maximum(best, paired_iou(prediction.unsqueeze(0), some.unsqueeze(1))[0].amax(0))
    return best


def _negative_weight(pairs: Pairs, boxes: Tensor, classes: Tensor, prediction: Tensor, shape: torch.Size) -> Tensor:
    """M (A, K): how far location a is spared as a negative of class c; no gradient."""
    spared = prediction.new_zeros(shape)
    if len(pairs.box) == 0:
        return spared
    claimed, position = pairs.location.unique(return_inverse=True)
    e = 1 / (1 - _max_iou(prediction[claimed], boxes)).clamp(min=1e-12)
    e = e[position]  # (S,)
    e = _scale_per_box(e - _lowest_per_box(e, pairs.box, len(boxes)), pairs.box, len(boxes))
    # Of several boxes of one class at a location the last in order wins; an indexed store would leave it to chance.
    cell = pairs.location * shape[1] + classes[pairs.box]  # (S,) index into A*K
    winner = pairs.box.new_full((spared.numel(),), -1).scatter_reduce(0, cell, pairs.box, "amax")
    wins = winner[cell] == pairs.box
    spared.view(-1)[cell[wins]] = e[wins]
    return spared


def _prior_term(pairs: Pairs, joint: Tensor, num_boxes: int, quality_prior: bool) -> Tensor:
    """``joint`` (S,): q * R. Method section 4.a (AutoAssign) or 4.b (FeatureAlign); 0 where no box holds a location."""
    if len(pairs.box) == 0:
        return pairs.gaussian.sum()
    if not quality_prior:
        return num_boxes / pairs.gaussian.sum().clamp(min=1e-12)
    with torch.no_grad():
        lowest = _lowest_per_box(joint, pairs.box, num_boxes)
        # exp(x) - exp(min) by expm1: the plain difference cancels in float32.
        v = _scale_per_box(lowest.exp() * torch.expm1(joint - lowest), pairs.box, num_boxes)
    return num_boxes / ((v * pairs.gaussian).clamp(min=1e-12).sqrt().sum() + 1e-6)


def loss_divisors(num_boxes: int, num_background: Tensor, reduce: bool, parts: int = 1) -> Tensor:
    """Divisors (2,) of the foreground and background loss from this worker's sums; one all-reduce where asked for.

    They are for the mean over the workers, and over the ``parts`` that each worker's batch is divided into.
    """
    # full_like, not new_tensor: a copy from the host would make a GPU wait.
    totals = torch.stack([torch.full_like(num_background, num_boxes), num_background])  # (2,)
    workers = 1
    if reduce and dist.is_available() and dist.is_initialized():
        workers = dist.get_world_size()
        dist.all_reduce(totals)
    totals = totals.clamp(min=1)
    return totals if workers * parts == 1 else totals / (workers * parts)


def num_background(
    cls_logits: list[Tensor],
    gt_boxes: list[Tensor],
    gt_classes: list[Tensor],
    mu: Tensor,
    sigma: Tensor,
    strides: Sequence[int],
    location_offset: float,
) -> Tensor:
    """The sum of the Gaussians over the locations inside boxes, 0-dim float64: the batch's background locations."""
    like = cls_logits[0].new_empty((), dtype=torch.promote_types(cls_logits[0].dtype, torch.float32))
    grid = make_grid([tuple(x.shape[2:]) for x in cls_logits], strides, location_offset, like)
    total = like.new_zeros(())
    for boxes, classes in zip(gt_boxes, gt_classes, strict=True):
        total = total + find_pairs(grid, boxes.to(like.dtype), classes.long(), mu, sigma).gaussian.sum()
    return total.double()


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
    """The oracle of :func:`fa_detectron.ops.quality_weighted_loss`; same arguments, same result."""
    # The grid, q (N, A, K) and the predicted boxes (N, A, 4) xyxy.
    grid, quality, prediction = flatten_maps(cls_logits, box_ltrb, obj_logits, strides, location_offset)
    mu, sigma = mu.to(quality.dtype), sigma.to(quality.dtype)

    positive, negative, prior, background = [], [], [], []
    for q, pred, boxes, classes in zip(quality, prediction, gt_boxes, gt_classes, strict=True):
        boxes, classes = boxes.detach().to(q.dtype), classes.long()
        pairs = find_pairs(grid, boxes, classes, mu, sigma)
        q_pair = q[pairs.location, classes[pairs.box]]  # (S,)
        r_pair = regression_quality(pred[pairs.location], boxes[pairs.box], iou_type, reg_weight)  # (S,)
        confidence = pair_confidence(q_pair, r_pair, feature_filter)  # P (S,)
        bag_weight = bag_weights(pairs, confidence, len(boxes))  # W (S,)
        bag = bag_weight.new_zeros(len(boxes)).index_add(0, pairs.box, bag_weight * confidence)  # b (G,)
        positive.append(_BinaryCrossEntropy.apply(bag.clamp(max=1), 1.0).sum())

        with torch.no_grad():
            spared = _negative_weight(pairs, boxes, classes, pred, q.shape)
        n = q * (1 - spared)
        negative.append((n.pow(focal_gamma) * _BinaryCrossEntropy.apply(n, 0.0)).sum())
        prior.append(_prior_term(pairs, (q_pair * r_pair).detach(), len(boxes), quality_prior))
        background.append(pairs.gaussian.detach().sum())
    if not positive:  # no image: no loss, but every input still receives its gradient
        nothing = quality.sum() + prediction.sum() + 0 * (mu + sigma).sum()
        positive, negative, prior, background = [nothing], [nothing], [nothing], [nothing.detach()]

    if normalizers is None:
        normalizers = loss_divisors(sum(len(b) for b in gt_boxes), torch.stack(background).sum(), reduce)
    num_foreground, num_background = (x.reshape(()) if isinstance(x, Tensor) else x for x in normalizers)
    return {
        "loss_pos": focal_alpha * torch.stack(positive).sum() / num_foreground,
        "loss_neg": (1 - focal_alpha) * torch.stack(negative).sum() / num_background,
        "loss_norm": (1 - focal_alpha) * torch.stack(prior).mean(),
    }

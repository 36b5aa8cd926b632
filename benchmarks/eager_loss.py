"""The peer of the loss's benchmark: the method over all pairs (box, location), in the published code's manner.

Frozen: it is what the native operator is compared with, and is never made faster. Same arguments and values as
``fa_detectron.ops.quality_weighted_loss``. Legend: A locations of all levels, G boxes of one image, K classes.
"""

import torch
import torch.nn.functional as F

EPS = 1.1920929e-07


def _overlaps(pred, target):
    """IoU and GIoU of ltrb distances; pred, target (A, G, 4)."""
    pred_area = (pred[..., 0] + pred[..., 2]).clamp(min=0) * (pred[..., 1] + pred[..., 3]).clamp(min=0)
    target_area = (target[..., 0] + target[..., 2]).clamp(min=0) * (target[..., 1] + target[..., 3]).clamp(min=0)
    low, high = torch.min(pred, target), torch.max(pred, target)
    inter = (low[..., 0] + low[..., 2]).clamp(min=0) * (low[..., 1] + low[..., 3]).clamp(min=0)
    union = pred_area + target_area - inter
    iou = inter / union.clamp(min=EPS)
    hull = (high[..., 0] + high[..., 2]) * (high[..., 1] + high[..., 3])
    return iou, iou - (hull - union) / hull.clamp(min=EPS)


def _normalize(x):
    return (x - x.min() + 1e-12) / (x.max() - x.min() + 1e-12)


def _image_loss(
    cls, obj, ltrb, locations, boxes, classes, mu, sigma, strides, feature_filter, quality_prior, gamma, weight, kind
):
    """cls (A, K), obj (A, 1) probabilities, ltrb (A, 4), locations: (H*W, 2) a level."""
    num_boxes = len(boxes)
    q = cls * obj  # (A, K)
    points = torch.cat(locations)  # (A, 2)
    target = torch.cat(
        [points.unsqueeze(1) - boxes[:, :2].unsqueeze(0), boxes[:, 2:].unsqueeze(0) - points.unsqueeze(1)], dim=2
    )  # (A, G, 4)
    inside = (target > 0).all(dim=2)  # (A, G)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    gaussians = []
    for level, (place, stride) in enumerate(zip(locations, strides)):
        mean = (mu if mu.dim() == 2 else mu[level])[classes]  # (G, 2)
        deviation = (sigma if sigma.dim() == 2 else sigma[level])[classes]
        distance = (place.unsqueeze(1) - centre.unsqueeze(0)) / stride - mean  # (H*W, G, 2)
        gaussians.append(torch.exp(-(distance**2) / (2 * (deviation**2).clamp(min=1e-6))).prod(dim=2))
    gaussian = torch.cat(gaussians) * inside  # (A, G)

    iou, giou = _overlaps(ltrb.unsqueeze(1).expand(-1, num_boxes, -1), target)  # (A, G)
    if kind == "iou":
        r = iou.clamp(min=EPS) ** weight
    else:
        r = torch.exp(-weight * (1 - (giou if kind == "giou" else iou)))
    q_box = q[:, classes]  # (A, G)
    confidence = q_box * r
    if feature_filter:
        confidence = confidence * (2 - (q_box - r) ** 2) / 2
    w = torch.exp(3 * confidence) * gaussian
    w = w / w.sum(dim=0, keepdim=True).clamp(min=1e-12)
    bag = (w * confidence).sum(dim=0).clamp(max=1)  # (G,)
    positive = F.binary_cross_entropy(bag, torch.ones_like(bag), reduction="sum")

    negative_weight = torch.ones_like(q)
    prior_weight = torch.zeros_like(gaussian)
    with torch.no_grad():
        if num_boxes:
            e = 1 / (1 - iou.max(dim=1).values).clamp(min=1e-12)  # (A,)
            for box in range(num_boxes):
                place = inside[:, box].nonzero().squeeze(1)
                if len(place):
                    negative_weight[place, classes[box]] = 1 - _normalize(e[place])
                    joint = q_box[place, box] * r[place, box]
                    low = joint.min()
                    excess = low.exp() * torch.expm1(joint - low)
                    prior_weight[place, box] = (excess + 1e-12) / (excess.max() + 1e-12)
    n = q * negative_weight
    negative = (n**gamma * F.binary_cross_entropy(n, torch.zeros_like(n), reduction="none")).sum()

    if not inside.any():
        prior = gaussian.sum()
    elif quality_prior:
        roots = (prior_weight * gaussian).clamp(min=1e-12).sqrt()
        prior = num_boxes / (roots[inside].sum() + 1e-6)
    else:
        prior = num_boxes / gaussian.sum().clamp(min=1e-12)
    return positive, negative, prior, gaussian.detach().sum()


def eager_loss(
    cls_logits,
    box_ltrb,
    obj_logits,
    gt_boxes,
    gt_classes,
    mu,
    sigma,
    strides,
    *,
    feature_filter=True,
    quality_prior=True,
    location_offset=0.0,
    focal_alpha=0.25,
    focal_gamma=2.0,
    reg_weight=5.0,
    iou_type="giou",
):
    """loss_pos, loss_neg and loss_norm of a batch."""

    def flatten(levels):
        return torch.cat([x.flatten(2).transpose(1, 2) for x in levels], dim=1)  # (N, A, C)

    locations = []
    for level, stride in zip(cls_logits, strides):
        height, width = level.shape[2:]
        y = (torch.arange(height, dtype=level.dtype, device=level.device) + location_offset) * stride
        x = (torch.arange(width, dtype=level.dtype, device=level.device) + location_offset) * stride
        y, x = torch.meshgrid(y, x, indexing="ij")
        locations.append(torch.stack([x.flatten(), y.flatten()], dim=1))
    images = zip(flatten(cls_logits).sigmoid(), flatten(obj_logits).sigmoid(), flatten(box_ltrb), gt_boxes, gt_classes)
    parts = [
        _image_loss(
            cls, obj, ltrb, locations, boxes, classes, mu, sigma, strides,
            feature_filter, quality_prior, focal_gamma, reg_weight, iou_type,
        )
        for cls, obj, ltrb, boxes, classes in images
    ]  # fmt: skip
    positive, negative, prior, background = (torch.stack(x) for x in zip(*parts))
    foreground = max(1, sum(len(boxes) for boxes in gt_boxes))
    return {
        "loss_pos": focal_alpha * positive.sum() / foreground,
        "loss_neg": (1 - focal_alpha) * negative.sum() / background.sum().clamp(min=1),
        "loss_norm": (1 - focal_alpha) * prior.mean(),
    }

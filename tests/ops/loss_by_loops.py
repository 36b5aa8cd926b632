"""The loss written out in loops over images, boxes and locations, one scalar at a time, straight from the formulas.

Slow and without any trick; autograd through it gives the gradients. Independent of the code under test.
"""

import math

import torch
from torch import Tensor

EPS = 1.1920929e-07


def overlaps(pred: list[Tensor], box: list[float]) -> tuple[Tensor, Tensor]:
    """IoU and GIoU of a predicted box (four scalar tensors) and a box (four numbers), xyxy."""
    zero = pred[0].new_zeros(())
    box = [zero + value for value in box]
    width = torch.maximum(torch.minimum(pred[2], box[2]) - torch.maximum(pred[0], box[0]), zero)
    height = torch.maximum(torch.minimum(pred[3], box[3]) - torch.maximum(pred[1], box[1]), zero)
    inter = width * height
    union = (pred[2] - pred[0]) * (pred[3] - pred[1]) + (box[2] - box[0]) * (box[3] - box[1]) - inter
    hull_w = torch.maximum(pred[2], box[2]) - torch.minimum(pred[0], box[0])
    hull_h = torch.maximum(pred[3], box[3]) - torch.minimum(pred[1], box[1])
    hull = hull_w * hull_h
    iou = inter / union.clamp(min=EPS)
    return iou, iou - (hull - union) / hull.clamp(min=EPS)


def quality(pred, box, iou_type, reg_weight):
    iou, giou = overlaps(pred, box)
    if iou_type == "iou":
        return iou.clamp(min=EPS) ** reg_weight
    return torch.exp(-reg_weight * (1 - (giou if iou_type == "giou" else iou)))


def scaled(values: dict[int, float], above=lambda value, low: value - low) -> dict[int, float]:
    """One box's values over its inside locations, from the smallest to the largest."""
    low = min(values.values())
    excess = {a: above(value, low) for a, value in values.items()}
    return {a: (value + 1e-12) / (max(excess.values()) + 1e-12) for a, value in excess.items()}


def exp_above(value: float, low: float) -> float:
    """exp(value) - exp(low), without the cancellation."""
    return math.exp(low) * math.expm1(value - low)


def loss_by_loops(
    cls_logits, box_ltrb, obj_logits, gt_boxes, gt_classes, mu, sigma, strides, *, feature_filter, quality_prior,
    location_offset=0.0, focal_alpha=0.25, focal_gamma=2.0, reg_weight=5.0, iou_type="giou",
):  # fmt: skip
    zero = mu.sum() * 0
    pos, neg, priors, num_fg, num_bg = zero, zero, [], 0, 0.0
    num_classes = cls_logits[0].shape[1]
    for image in range(cls_logits[0].shape[0]):
        places = [
            (level, i, j)
            for level, maps in enumerate(cls_logits)
            for i in range(maps.shape[2])
            for j in range(maps.shape[3])
        ]
        q, pred, point = [], [], []
        for level, i, j in places:
            s = strides[level]
            x, y = j * s + location_offset * s, i * s + location_offset * s
            h = torch.sigmoid(obj_logits[level][image, 0, i, j])
            q.append([torch.sigmoid(cls_logits[level][image, c, i, j]) * h for c in range(num_classes)])
            left, top, right, bottom = box_ltrb[level][image, :, i, j]
            pred.append([x - left, y - top, x + right, y + bottom])
            point.append((x, y))
        boxes, classes = gt_boxes[image].tolist(), gt_classes[image].tolist()
        inside = [
            [a for a, (x, y) in enumerate(point) if x > x1 and y > y1 and x < x2 and y < y2] for x1, y1, x2, y2 in boxes
        ]
        best_iou = [max((overlaps(pred[a], b)[0].item() for b in boxes), default=0.0) for a in range(len(places))]

        spared = [[0.0] * num_classes for _ in places]
        sum_gaussian, sum_prior = zero, zero
        for g, (box, c) in enumerate(zip(boxes, classes)):
            P, R, N, w = {}, {}, {}, {}
            for a in inside[g]:
                level = places[a][0]
                row = mu[level][c] if mu.dim() == 3 else mu[c], sigma[level][c] if mu.dim() == 3 else sigma[c]
                N[a] = zero + 1
                for axis in (0, 1):
                    centre = (box[axis] + box[axis + 2]) / 2
                    u = (point[a][axis] - centre) / strides[level]
                    variance = (row[1][axis] ** 2).clamp(min=1e-6)
                    N[a] = N[a] * torch.exp(-((u - row[0][axis]) ** 2) / (2 * variance))
                R[a] = quality(pred[a], box, iou_type, reg_weight)
                P[a] = q[a][c] * R[a]
                if feature_filter:
                    P[a] = P[a] * (2 - (q[a][c] - R[a]) ** 2) / 2
                w[a] = torch.exp(3 * P[a]) * N[a]
                sum_gaussian = sum_gaussian + N[a]
                num_bg += N[a].item()
            total = sum(w.values(), zero).clamp(min=1e-12)
            bag = sum((w[a] / total * P[a] for a in inside[g]), zero)
            if bag.item() > 0:
                pos = pos - torch.log(bag)
            else:
                pos = pos + 100
            num_fg += 1
            if inside[g]:
                for a, value in scaled({a: 1 / max(1 - best_iou[a], 1e-12) for a in inside[g]}).items():
                    spared[a][c] = value  # the last box in order wins
                weight = scaled({a: (q[a][c] * R[a]).item() for a in inside[g]}, exp_above)
                for a in inside[g]:
                    sum_prior = sum_prior + torch.sqrt((weight[a] * N[a]).clamp(min=1e-12))
        for a in range(len(places)):
            for c in range(num_classes):
                n = q[a][c] * (1 - spared[a][c])
                neg = neg - n**focal_gamma * torch.log(1 - n)
        if not any(inside):
            priors.append(zero)
        elif quality_prior:
            priors.append(len(boxes) / (sum_prior + 1e-6))
        else:
            priors.append(len(boxes) / sum_gaussian.clamp(min=1e-12))
    return {
        "loss_pos": focal_alpha * pos / max(1, num_fg),
        "loss_neg": (1 - focal_alpha) * neg / max(1.0, num_bg),
        "loss_norm": (1 - focal_alpha) * sum(priors) / len(priors),
    }

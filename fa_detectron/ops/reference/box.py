"""Overlap of boxes (xyxy pixels), with the clamps and tie gradients of the published loss."""

import torch
from torch import Tensor

EPS = 1.1920929e-07  # float32's epsilon, in every dtype


def paired_iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and GIoU of boxes ``a`` and ``b``, both (..., 4) xyxy, broadcast against each other; two tensors (...)."""
    a_x1, a_y1, a_x2, a_y2 = a.unbind(-1)
    b_x1, b_y1, b_x2, b_y2 = b.unbind(-1)
    area_a = (a_x2 - a_x1).clamp(min=0) * (a_y2 - a_y1).clamp(min=0)
    area_b = (b_x2 - b_x1).clamp(min=0) * (b_y2 - b_y1).clamp(min=0)
    width = (torch.min(a_x2, b_x2) - torch.max(a_x1, b_x1)).clamp(min=0)
    height = (torch.min(a_y2, b_y2) - torch.max(a_y1, b_y1)).clamp(min=0)
    intersection = width * height
    union = area_a + area_b - intersection
    enclosing = (torch.max(a_x2, b_x2) - torch.min(a_x1, b_x1)) * (torch.max(a_y2, b_y2) - torch.min(a_y1, b_y1))
    iou = intersection / union.clamp(min=EPS)
    return iou, iou - (enclosing - union) / enclosing.clamp(min=EPS)

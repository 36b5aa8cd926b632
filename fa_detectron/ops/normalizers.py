"""The normalisers of the quality-weighted loss ahead of the forward pass, as accumulation of gradients needs them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .reference.quality_weighted_loss import loss_divisors


def quality_normalizers(
    gt_boxes: list[Tensor],
    gt_classes: list[Tensor],
    mu: Tensor,
    sigma: Tensor,
    strides: Sequence[int],
    image_sizes: Sequence[tuple[int, int]],
    *,
    location_offset: float = 0.0,
    parts: int = 1,
    reduce: bool = False,
) -> tuple[Tensor, Tensor]:
    """Divisors of the foreground and the background loss, for ``quality_weighted_loss(normalizers=...)``.

    With them, the mean of the losses of ``parts`` equal parts of a batch is the loss of the batch. The number of
    background locations is the sum of the Gaussians over the locations inside the boxes. Both factor into x and y, so
    that no tensor over boxes and locations is made.

    Args:
        gt_boxes: an image of all parts, (G, 4) xyxy pixels inside the image.
        gt_classes: an image, (G,) int64.
        mu, sigma: the Gaussian priors in cells, (K, 2) or (L, K, 2).
        strides: a level, pixels.
        image_sizes: an image, (height, width) in pixels, without padding.
        location_offset: as in ``quality_weighted_loss``.
        parts: into how many this worker's batch is divided.
        reduce: average the divisors over the workers of torch.distributed (one all-reduce).

    Returns:
        Foreground and background divisor, 0-dim, of the dtype of ``mu`` (at least float32), without gradient.
    """
    dtype = torch.promote_types(mu.dtype, torch.float32)
    with torch.no_grad():
        boxes, classes = torch.cat(gt_boxes).to(dtype), torch.cat(gt_classes)  # (G, 4), (G,) of all images
        sides = [max(width for _, width in image_sizes), max(height for height, _ in image_sizes)]  # pixels
        total = boxes.new_zeros((), dtype=torch.float64)
        for level, stride in enumerate(strides):
            mean, deviation = ((x if x.dim() == 2 else x[level])[classes].to(dtype) for x in (mu, sigma))  # (G, 2)
            variance = deviation.square().clamp(min=1e-6)
            sums = []
            for axis, side in enumerate(sides):
                # Boxes end with their image, so that cells beyond it count nothing.
                cells = torch.arange(math.ceil(side / stride), dtype=dtype, device=boxes.device)
                place = (cells + location_offset) * stride  # (cells,) pixels
                low, high = boxes[:, axis, None], boxes[:, axis + 2, None]  # (G, 1)
                u = (place - (low + high) / 2) / stride  # (G, cells)
                gaussian = torch.exp(-(u - mean[:, axis, None]).square() / (2 * variance[:, axis, None]))
                sums.append((gaussian * ((place > low) & (place < high))).sum(1, dtype=torch.float64))  # (G,)
            total += (sums[0] * sums[1]).sum()
        foreground, background = loss_divisors(len(boxes), total, reduce, parts)
    return foreground.to(dtype), background.to(dtype)

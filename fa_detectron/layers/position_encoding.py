"""DETR's two-dimensional sine position code (arXiv 2005.12872, appendix A.4)."""

import math

import torch
from torch import Tensor

_TEMPERATURE = 10000


def sine_position_code(padding_mask: Tensor, dim: int) -> Tensor:
    """Code of every cell, counted over the valid cells alone.

    Args:
        padding_mask: (N, H, W) bool, true where the canvas is padding.
        dim: channels of the code, a multiple of 4: half for y, then half for x, sine and cosine interleaved.

    Returns:
        (N, dim, H, W) float32.
    """
    if dim % 4:
        raise ValueError(f"the position code needs a channel count divisible by 4, got {dim}")
    half = dim // 2
    valid = (~padding_mask).float()
    feature = torch.arange(half, device=padding_mask.device, dtype=torch.float32)
    wavelength = _TEMPERATURE ** (2 * (feature // 2) / half)  # (half,)
    codes = []
    for axis in (1, 2):  # y, then x
        count = valid.cumsum(axis)  # (N, H, W), the first valid cell is 1
        last = count.narrow(axis, count.shape[axis] - 1, 1)
        angle = count / (last + 1e-6) * (2 * math.pi)
        phase = angle.unsqueeze(3) / wavelength  # (N, H, W, half)
        codes.append(torch.stack([phase[..., 0::2].sin(), phase[..., 1::2].cos()], dim=4).flatten(3))
    return torch.cat(codes, dim=3).permute(0, 3, 1, 2)  # (N, dim, H, W)

"""The locations of the feature maps, shared by the loss and by decoding."""

import torch
from torch import Tensor


def level_locations(height: int, width: int, stride: int, offset: float, like: Tensor) -> Tensor:
    """Locations of one level's cells in pixels, (H*W, 2) as (x, y), row by row; ``like`` gives dtype and device.

    Cell (i, j) stands at (j*s + o*s, i*s + o*s): o = 0 is its corner, as published, 0.5 its centre.
    """
    y = (torch.arange(height, dtype=like.dtype, device=like.device) + offset) * stride
    x = (torch.arange(width, dtype=like.dtype, device=like.device) + offset) * stride
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=2).view(-1, 2)  # (H*W, 2)

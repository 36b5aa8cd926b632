"""The De-Subnet's deformable conv: the second half of G-RFA, in both subnets of the head."""

import math

from torch import Tensor, nn

from fa_detectron.ops import deform_conv2d_levels

_TAPS = 9


class DeformBlock(nn.Module):
    """A modulated deformable 3x3 conv (DCNv2) that predicts its own offsets and mask, over all levels in one call.

    ``offset`` gives 27 channels: 18 offsets, the (dy, dx) pairs of the taps in row-major order, then 9 mask logits.
    ``conv`` starts as the published code's deformable conv: weights uniform within 1 / sqrt(9 C), biases 0.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offset = nn.Conv2d(channels, 3 * _TAPS, kernel_size=3, padding=1)
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)  # holds the parameters; sampled below
        limit = 1 / math.sqrt(_TAPS * channels)
        nn.init.uniform_(self.conv.weight, -limit, limit)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Maps (N, C, H, W) of all levels to maps of the same shapes."""
        offset_mask = [self.offset(feature) for feature in features]  # a level, (N, 27, H, W)
        return deform_conv2d_levels(features, offset_mask, self.conv.weight, self.conv.bias)

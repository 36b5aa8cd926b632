"""The De-Subnet's block in operators that other runtimes know. Legend: N images, C channels, T = 9 taps."""

from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from fa_detectron.layers import DeformBlock

_TAPS = 9


class StandardDeformBlock(DeformBlock):
    """Level by level through ``torchvision::deform_conv2d``, which ONNX calls DeformConv (from opset 19)."""

    @classmethod
    def like(cls, block: DeformBlock) -> Self:
        """A block with the very parameters of ``block``."""
        made = cls(block.conv.in_channels)
        made.offset, made.conv = block.offset, block.conv
        return made

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Maps (N, C, H, W) of all levels to maps of the same shapes."""
        outputs = []
        for feature in features:
            raw = self.offset(feature)  # (N, 27, H, W)
            outputs.append(self.sample(feature, raw[:, : 2 * _TAPS], raw[:, 2 * _TAPS :].sigmoid()))
        return outputs

    def sample(self, feature: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """(N, C, H, W), offset (N, 18, H, W) pixels, mask (N, 9, H, W) in 0..1 -> (N, C, H, W)."""
        return deform_conv2d(feature, offset, self.conv.weight, self.conv.bias, padding=1, mask=mask)


class GridSampleDeformBlock(StandardDeformBlock):
    """The same by bilinear grid sampling of every tap, then a 1x1 convolution over taps and channels."""

    def sample(self, feature: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """As :meth:`StandardDeformBlock.sample`."""
        n, channels, height, width = feature.shape
        tap = torch.arange(_TAPS, device=feature.device)
        y = torch.arange(height, device=feature.device, dtype=feature.dtype).view(1, 1, height, 1)
        x = torch.arange(width, device=feature.device, dtype=feature.dtype).view(1, 1, 1, width)
        y = offset[:, 0::2] + (y + (tap // 3 - 1).view(1, _TAPS, 1, 1))  # (N, T, H, W) pixels
        x = offset[:, 1::2] + (x + (tap % 3 - 1).view(1, _TAPS, 1, 1))
        # align_corners False: pixel p stands at (2p + 1) / size - 1, which holds for a map of one cell, too.
        grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=4)  # (N, T, H, W, 2)
        grid = grid.reshape(n, _TAPS * height, width, 2)
        columns = F.grid_sample(feature, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        columns = columns.reshape(n, channels, _TAPS, height, width) * mask.unsqueeze(1)
        kernel = self.conv.weight.reshape(-1, channels * _TAPS, 1, 1)  # (O, C*T, 1, 1)
        return F.conv2d(columns.reshape(n, channels * _TAPS, height, width), kernel, self.conv.bias)

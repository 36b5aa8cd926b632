"""A convolution that autocast leaves in float32."""

import torch
from torch import Tensor, nn


class Float32Conv2d(nn.Conv2d):
    """``nn.Conv2d`` for outputs that half precision cannot hold; under autocast it gives float32."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H', W'), of the weight's dtype; without autocast as ``nn.Conv2d``."""
        device = "cuda" if input.is_cuda else "cpu"  # a meta tensor has no autocast of its own
        if not torch.is_autocast_enabled(device):  # so that an exported graph has no region without autocast
            return super().forward(input)
        with torch.autocast(device, enabled=False):
            return super().forward(input.to(self.weight.dtype))

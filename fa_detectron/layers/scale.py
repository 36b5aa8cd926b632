"""A learned scalar."""

import torch
from torch import Tensor, nn


class Scale(nn.Module):
    """Multiplies by one learned number (FCOS, arXiv 1904.01355, section 3.2)."""

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([start]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale

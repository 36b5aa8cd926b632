"""Global attention over one feature map: the first half of G-RFA ("Feature Alignment in Anchor-Free Object Detection").

A post-norm transformer encoder in DETR's manner (arXiv 2005.12872). Legend: N images, d channels, S = H*W cells.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .position_encoding import sine_position_code


class GlobalAttentionLayer(nn.Module):
    """Self-attention and feed-forward over cells, each followed by a residual sum and a LayerNorm."""

    def __init__(self, dim: int, num_heads: int, dim_feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(dim, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, cells: Tensor, position: Tensor, key_padding_mask: Tensor) -> Tensor:
        """``cells``, ``position`` (N, S, d); ``key_padding_mask`` (N, S) bool. Returns (N, S, d)."""
        key = cells + position  # values carry no position
        attended, _ = self.self_attn(key, key, cells, key_padding_mask=key_padding_mask, need_weights=False)
        cells = self.norm1(cells + self.dropout(attended))
        hidden = self.dropout(F.relu(self.linear1(cells)))  # (N, S, dim_feedforward)
        return self.norm2(cells + self.dropout(self.linear2(hidden)))


class GlobalAttentionEncoder(nn.Module):
    """``num_layers`` attention layers with their own weights over the cells of a map.

    The layers' output replaces the map, as published. With ``gated`` it is added to the map, times one learned number a
    channel that starts at 0: a pre-trained map reaches the rest of the network unchanged until the layers are of use.

    Raises:
        ValueError: ``dim`` is no multiple of ``num_heads``, or of 4 (the position code's sine and cosine of y and x).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        dim_feedforward: int = 2048,
        num_layers: int = 3,
        dropout: float = 0.1,
        gated: bool = False,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                f"global attention: the map's {dim} channels cannot be divided among {num_heads} heads; "
                "choose a number of heads that divides the channels"
            )
        if dim % 4:
            raise ValueError(f"global attention: the position code needs channels divisible by 4, got {dim}")
        self.dim = dim
        self.layers = nn.ModuleList(
            GlobalAttentionLayer(dim, num_heads, dim_feedforward, dropout) for _ in range(num_layers)
        )
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        if gated:
            self.gate = nn.Parameter(torch.zeros(dim))
        self._gated = gated

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Attends from every cell to every valid cell.

        Args:
            x: (N, d, H, W).
            padding_mask: (N, H, W) bool, true where the canvas is padding; padded cells are never attended to, and
                what comes out at them means nothing. None: every cell is valid.

        Returns:
            (N, d, H, W).
        """
        n, d, height, width = x.shape
        if padding_mask is None:
            padding_mask = x.new_zeros((n, height, width), dtype=torch.bool)
        if tuple(padding_mask.shape) != (n, height, width):
            raise ValueError(f"padding_mask must be {(n, height, width)}, got {tuple(padding_mask.shape)}")
        position = sine_position_code(padding_mask, d).to(x.dtype).flatten(2).transpose(1, 2)  # (N, S, d)
        cells = x.flatten(2).transpose(1, 2)  # (N, S, d)
        mask = padding_mask.flatten(1)  # (N, S)
        for layer in self.layers:
            cells = layer(cells, position, mask)
        out = cells.transpose(1, 2).reshape(n, d, height, width)
        return x + self.gate[:, None, None] * out if self._gated else out

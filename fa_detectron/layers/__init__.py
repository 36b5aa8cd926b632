"""Building blocks of the network; they need torch alone."""

from .de_subnet import DeformBlock
from .float32_conv import Float32Conv2d
from .global_attention import GlobalAttentionEncoder
from .group_norm import GroupNorm
from .position_encoding import sine_position_code
from .scale import Scale

__all__ = ["DeformBlock", "Float32Conv2d", "GlobalAttentionEncoder", "GroupNorm", "Scale", "sine_position_code"]

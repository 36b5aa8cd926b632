"""Building blocks of the network; they need torch alone."""

from .de_subnet import DeformBlock
from .global_attention import GlobalAttentionEncoder
from .position_encoding import sine_position_code
from .scale import Scale

__all__ = ["DeformBlock", "GlobalAttentionEncoder", "Scale", "sine_position_code"]

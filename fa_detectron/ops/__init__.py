"""The operators of the method. Each runs natively where it was compiled, else in plain PyTorch (``ops.reference``)."""

from .decode import decode_detections
from .deform_conv import DeformConv2d, deform_conv2d, deform_conv2d_levels
from .normalizers import quality_normalizers
from .quality_weighted_loss import quality_weighted_loss

__all__ = [
    "DeformConv2d",
    "decode_detections",
    "deform_conv2d",
    "deform_conv2d_levels",
    "quality_normalizers",
    "quality_weighted_loss",
]

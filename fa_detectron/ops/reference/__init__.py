"""Every op in plain PyTorch: the oracle of the tests, and the fallback where nothing was compiled."""

from .decode import decode_detections
from .deform_conv import deform_conv2d, deform_conv2d_levels
from .quality_weighted_loss import quality_weighted_loss

__all__ = ["decode_detections", "deform_conv2d", "deform_conv2d_levels", "quality_weighted_loss"]

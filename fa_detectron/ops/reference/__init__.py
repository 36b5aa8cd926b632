"""Every operator in plain PyTorch: the oracle of the tests, and the default kernel of the operator."""

from .decode import decode_detections
from .deform_conv import deform_conv2d, deform_conv2d_levels
from .quality_weighted_loss import num_background, quality_weighted_loss

__all__ = ["decode_detections", "deform_conv2d", "deform_conv2d_levels", "num_background", "quality_weighted_loss"]

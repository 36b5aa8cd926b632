"""Use a trained run: load its folder, detect in images and videos, write pictures and COCO results."""

from .images import UnreadableImage, read_image, to_rgb
from .predictor import Predictor
from .run import Run, choose_device, find_weights, load_run

__all__ = [
    "Predictor",
    "Run",
    "UnreadableImage",
    "choose_device",
    "find_weights",
    "load_run",
    "read_image",
    "to_rgb",
]

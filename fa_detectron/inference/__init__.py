"""Use a trained run: load its folder, detect in images and videos, write pictures and COCO results."""

from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.errors import UnreadableImage

from .predictor import Predictor
from .run import Run, choose_device, config_of_run, find_weights, load_model, load_run

__all__ = [
    "ImageReader",
    "Predictor",
    "Run",
    "UnreadableImage",
    "choose_device",
    "config_of_run",
    "find_weights",
    "load_model",
    "load_run",
]

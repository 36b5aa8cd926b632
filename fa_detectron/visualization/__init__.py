"""Pictures of detections and ground truth."""

from .drawing import class_colour, draw_boxes
from .samples import boxes_picture, detection_picture, readable_scale, save_detection_samples

__all__ = [
    "boxes_picture",
    "class_colour",
    "detection_picture",
    "draw_boxes",
    "readable_scale",
    "save_detection_samples",
]

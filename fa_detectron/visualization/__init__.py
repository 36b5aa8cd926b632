"""Pictures of detections and ground truth."""

from .drawing import class_colour, draw_boxes
from .samples import detection_picture, save_detection_samples

__all__ = ["class_colour", "detection_picture", "draw_boxes", "save_detection_samples"]

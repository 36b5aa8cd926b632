"""YOLO sets, in all their layouts."""

"""Detect in images and videos, write pictures and COCO results."""

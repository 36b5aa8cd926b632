"""A training run as one HTML page: curves, AP, detections, errors, cost."""

from .page import ReportOptions, write_report

__all__ = ["ReportOptions", "write_report"]

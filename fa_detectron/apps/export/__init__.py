"""A trained detector for programs without Detectron2: torch.export's .pt2 and ONNX, and the proof that they agree."""

from .check import Parity, check_parity
from .detector import ExportedDetector
from .model_file import ExportOptions, export_model

__all__ = ["ExportOptions", "ExportedDetector", "Parity", "check_parity", "export_model"]

"""FeatureAlign ("Feature Alignment in Anchor-Free Object Detection", TCSVT 2023) as a Detectron2 project."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fa_detectron.inference import Predictor
    from fa_detectron.modeling.config import add_feature_align_config

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__", "add_feature_align_config"]
_HOMES = {"Predictor": "fa_detectron.inference", "add_feature_align_config": "fa_detectron.modeling"}


def __getattr__(name: str):
    # On first use only: the operators and layers must not pull in detectron2.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

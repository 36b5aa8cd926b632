"""FeatureAlign ("Feature Alignment in Anchor-Free Object Detection", TCSVT 2023) as a Detectron2 project."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fa_detectron.modeling.config import add_feature_align_config

__version__ = "0.1.0"
__all__ = ["__version__", "add_feature_align_config"]


def __getattr__(name: str):
    # On first use only: the operators and layers must not pull in detectron2.
    if name == "add_feature_align_config":
        from fa_detectron.modeling import add_feature_align_config

        return add_feature_align_config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Detectron2's side of the detector: importing this package registers the meta-architecture and the backbones."""

from fa_detectron.errors import UserError

try:
    import detectron2 as _detectron2
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
    raise UserError("detectron2 is not installed: run `make setup`, or see README.md.") from error

from .backbone import (
    FeatureAlignFPN,
    TimmBackbone,
    build_feature_align_resnet_fpn_backbone,
    build_feature_align_timm_fpn_backbone,
)
from .config import add_feature_align_config
from .head import FeatureAlignHead
from .meta_arch import FeatureAlign

__all__ = [
    "FeatureAlign",
    "FeatureAlignFPN",
    "FeatureAlignHead",
    "TimmBackbone",
    "add_feature_align_config",
    "build_feature_align_resnet_fpn_backbone",
    "build_feature_align_timm_fpn_backbone",
]

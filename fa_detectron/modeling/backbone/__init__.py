"""Backbones: FPN with global attention on C5, over Detectron2's ResNets or over a timm model."""

from .fpn import FeatureAlignFPN, build_feature_align_resnet_fpn_backbone
from .timm_backbone import TimmBackbone, build_feature_align_timm_fpn_backbone

__all__ = [
    "FeatureAlignFPN",
    "TimmBackbone",
    "build_feature_align_resnet_fpn_backbone",
    "build_feature_align_timm_fpn_backbone",
]

"""Detectron2's own RetinaNet and FCOS under this project's trainer, data and backbones, for comparisons.

python benchmarks/peers.py WORDS OF train_net.py ... MODEL.META_ARCHITECTURE FCOSPeer

Both read the backbone, the pyramid's maps, the number of classes, the depth of the towers and the limits of inference
from this project's keys. Losses, matching and anchors are Detectron2's defaults (its Base-RetinaNet.yaml and
common/models/fcos.py), with GroupNorm in the towers, as in this project's. FCOS's score threshold is ours: Detectron2's
0.2 cuts its AP.
"""

from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from detectron2.modeling.meta_arch.retinanet import RetinaNet, RetinaNetHead
from torch import nn

from fa_detectron.apps.train import main
from fa_detectron.errors import run_command


def _norm(channels: int) -> nn.GroupNorm:
    """Detectron2's "GN", which also answers for a single channel, as RetinaNetHead asks."""
    return nn.GroupNorm(min(32, channels), channels)


@META_ARCH_REGISTRY.register()
class RetinaNetPeer(RetinaNet):
    """Detectron2's RetinaNet, built from this project's keys."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        cfg, ours = cfg.clone(), cfg.MODEL.FEATURE_ALIGN
        cfg.defrost()
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[x * 2 ** (i / 3) for i in range(3)] for x in (32, 64, 128, 256, 512)]
        theirs = cfg.MODEL.RETINANET
        theirs.IOU_THRESHOLDS, theirs.IOU_LABELS, theirs.SMOOTH_L1_LOSS_BETA = [0.4, 0.5], [0, -1, 1], 0.0
        theirs.IN_FEATURES, theirs.NUM_CLASSES = ours.IN_FEATURES, ours.NUM_CLASSES
        theirs.SCORE_THRESH_TEST, theirs.TOPK_CANDIDATES_TEST = ours.SCORE_THRESH_TEST, ours.TOPK_CANDIDATES_TEST
        parts = super().from_config(cfg)
        shapes = [parts["backbone"].output_shape()[name] for name in ours.IN_FEATURES]
        parts["head"] = RetinaNetHead(
            input_shape=shapes,
            num_classes=ours.NUM_CLASSES,
            num_anchors=parts["anchor_generator"].num_cell_anchors[0],
            conv_dims=[shapes[0].channels] * ours.NUM_CONVS,
            norm=_norm,
        )
        return parts


@META_ARCH_REGISTRY.register()
class FCOSPeer(FCOS):
    """Detectron2's FCOS, built from this project's keys."""

    def __init__(self, cfg: CfgNode) -> None:
        ours, backbone = cfg.MODEL.FEATURE_ALIGN, build_backbone(cfg)
        shapes = [backbone.output_shape()[name] for name in ours.IN_FEATURES]
        channels = [shapes[0].channels] * ours.NUM_CONVS
        super().__init__(
            backbone=backbone,
            head=FCOSHead(input_shape=shapes, num_classes=ours.NUM_CLASSES, conv_dims=channels, norm=_norm),
            head_in_features=ours.IN_FEATURES,
            num_classes=ours.NUM_CLASSES,
            test_score_thresh=ours.SCORE_THRESH_TEST,
            test_topk_candidates=ours.TOPK_CANDIDATES_TEST,
            test_nms_thresh=ours.NMS_THRESH_TEST,
            max_detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
        )


if __name__ == "__main__":
    run_command(main)

"""A detector with every part, small enough to be exported in seconds, that finds things in noise."""

import torch
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from torch import Tensor, nn

from fa_detectron.layers import GlobalAttentionEncoder
from fa_detectron.modeling import FeatureAlign, FeatureAlignFPN, FeatureAlignHead

CHANNELS = 64


class TinyBackbone(Backbone):
    """Three convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.c3 = nn.Conv2d(3, 8, kernel_size=7, stride=8, padding=3)
        self.c4 = nn.Conv2d(8, 8, kernel_size=3, stride=2, padding=1)
        self.c5 = nn.Conv2d(8, 16, kernel_size=3, stride=2, padding=1)
        self._out_features = ["res3", "res4", "res5"]
        self._out_feature_strides = {"res3": 8, "res4": 16, "res5": 32}
        self._out_feature_channels = {"res3": 8, "res4": 8, "res5": 16}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        c3 = self.c3(images).relu()
        c4 = self.c4(c3).relu()
        return {"res3": c3, "res4": c4, "res5": self.c5(c4).relu()}


def make_model(bottom_up: Backbone | None = None, attention: bool = True, topk: int = 1000) -> FeatureAlign:
    """A model in evaluation mode whose scores, boxes and offsets vary from place to place."""
    torch.manual_seed(0)
    encoder = GlobalAttentionEncoder(16, num_heads=2, dim_feedforward=8, num_layers=1)
    backbone = FeatureAlignFPN(
        bottom_up or TinyBackbone(),
        ["res3", "res4", "res5"],
        CHANNELS,
        top_block=LastLevelP6P7(CHANNELS, CHANNELS, in_feature="p5"),
        global_attention=encoder if attention else None,
    )
    head = FeatureAlignHead(CHANNELS, num_classes=3, num_convs=1, strides=[8, 16, 32, 64, 128], de_subnet=True)
    model = FeatureAlign(
        backbone=backbone,
        head=head,
        in_features=["p3", "p4", "p5", "p6", "p7"],
        num_classes=3,
        pixel_mean=[127.0] * 3,
        pixel_std=[60.0] * 3,
        feature_filter=True,
        mdq=True,
        topk=topk,
    )
    for subnet in (head.cls_subnet, head.bbox_subnet):
        nn.init.normal_(subnet[0].offset.weight, std=0.3)
        nn.init.normal_(subnet[0].conv.weight, std=0.1)
    for layer in (head.cls_score, head.obj_score, head.bbox_pred):
        nn.init.normal_(layer.weight, std=0.1)
    nn.init.zeros_(head.cls_score.bias)
    head.bbox_pred.bias.data.copy_(torch.tensor([1.1, 1.7, 2.3, 1.3]))  # no two boxes with an IoU of exactly 0.6
    return model.eval()


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    """(1, 3, H, W) float32, 0..255."""
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 255

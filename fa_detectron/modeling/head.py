"""The dense head, shared by all levels (FCOS's two subnets with AutoAssign's objectness and the De-Subnet)."""

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from fa_detectron.layers import DeformBlock, Float32Conv2d, GroupNorm, Scale

_NORM_GROUPS = 32


def _subnet(channels: int, num_convs: int, de_subnet: bool) -> nn.Sequential:
    """``num_convs`` x [conv, GroupNorm, ReLU]; with the De-Subnet the last conv is a deformable one."""
    layers: list[nn.Module] = []
    for index in range(num_convs):
        deformable = de_subnet and index == num_convs - 1
        layers += [
            DeformBlock(channels) if deformable else nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            GroupNorm(_NORM_GROUPS, channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _run_levels(subnet: nn.Sequential, features: list[Tensor]) -> list[Tensor]:
    for layer in subnet:
        features = layer(features) if isinstance(layer, DeformBlock) else [layer(x) for x in features]
    return features


class FeatureAlignHead(nn.Module):
    """Class logits, box distances and objectness logits at every location of every level.

    Args:
        in_channels: channels C of the maps, a multiple of 32 (GroupNorm's groups).
        num_classes: K.
        num_convs: 3x3 convs in each subnet.
        strides: a level, pixels.
        de_subnet: the last conv of both subnets is deformable.
        prior_prob: the class probability that the class bias starts at.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        num_convs: int,
        strides: Sequence[int],
        de_subnet: bool,
        prior_prob: float = 0.02,
    ) -> None:
        super().__init__()
        if in_channels % _NORM_GROUPS:
            raise ValueError(f"the head needs channels divisible by {_NORM_GROUPS} (GroupNorm), got {in_channels}")
        if de_subnet and num_convs < 1:
            raise ValueError("the De-Subnet needs at least one conv in the subnets")
        self.strides = tuple(strides)
        self.cls_subnet = _subnet(in_channels, num_convs, de_subnet)
        self.bbox_subnet = _subnet(in_channels, num_convs, de_subnet)
        self.cls_score = nn.Conv2d(in_channels, num_classes, kernel_size=3, padding=1)
        # float32 under autocast, too: bfloat16 would move the sides of large boxes in steps of 4 pixels.
        self.bbox_pred = Float32Conv2d(in_channels, 4, kernel_size=3, padding=1)
        self.obj_score = nn.Conv2d(in_channels, 1, kernel_size=3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in self.strides)

        sampled = [module.conv for module in self.modules() if isinstance(module, DeformBlock)]  # keep their own start
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module not in sampled:
                nn.init.normal_(module.weight, mean=0, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # all have one
        nn.init.constant_(self.cls_score.bias, -math.log((1 - prior_prob) / prior_prob))  # type: ignore[arg-type]
        nn.init.constant_(self.bbox_pred.bias, 4.0)  # type: ignore[arg-type]

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """``features``: a level, (N, C, H, W).

        Returns:
            A level each: class logits (N, K, H, W); distances to the four sides ltrb (N, 4, H, W), pixels, >= 0, never
            in half precision; objectness logits (N, 1, H, W).
        """
        if len(features) != len(self.strides):
            raise ValueError(f"the head was built for {len(self.strides)} levels, got {len(features)} maps")
        cls_features = _run_levels(self.cls_subnet, features)
        box_features = _run_levels(self.bbox_subnet, features)
        cls_logits = [self.cls_score(x) for x in cls_features]
        obj_logits = [self.obj_score(x) for x in box_features]
        box_ltrb = []
        for x, scale, stride in zip(box_features, self.scales, self.strides, strict=True):
            distance = self.bbox_pred(x)
            if distance.dtype.itemsize < 4:
                distance = distance.float()  # a model whose weights are in half precision
            box_ltrb.append(F.relu(scale(distance)) * stride)
        return cls_logits, box_ltrb, obj_logits

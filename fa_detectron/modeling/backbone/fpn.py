"""FPN whose top map passes a global-attention encoder (G-RFA) before its lateral convolution."""

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.backbone.resnet import build_resnet_backbone
from torch import nn

from fa_detectron.errors import UserError
from fa_detectron.layers import GlobalAttentionEncoder

# Shapes: N images, H x W pixels of the padded batch canvas, d channels and H5 x W5 cells of C5, C channels of the FPN.


class FeatureAlignFPN(FPN):
    """Detectron2's FPN, with an optional encoder between C5 and its lateral 1x1 convolution.

    Parameter names are those of Detectron2's FPN (``bottom_up``, ``fpn_lateral3``, ``top_block.p6``), plus
    ``global_attention`` where there is one. Source: Gao et al., TCSVT 2023, G-RFA.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: list[str],
        out_channels: int,
        *,
        norm: str = "",
        top_block: nn.Module | None = None,
        fuse_type: str = "sum",
        global_attention: nn.Module | None = None,
    ) -> None:
        """
        Args:
            bottom_up: gives the maps named in ``in_features``.
            in_features: names of C3..C5, finest first; their strides double from one to the next.
            out_channels: channels of every output map.
            norm: normalisation of the lateral and output convolutions, "" for none (then they have biases).
            top_block: makes the coarser maps out of the map that its ``in_feature`` names: an output map, or C5.
            fuse_type: "sum" or "avg", how the lateral and the top-down map are joined.
            global_attention: called as ``(x (N, d, H5, W5), padding_mask (N, H5, W5) or None)``, keeps the shape.
        """
        super().__init__(
            bottom_up=bottom_up,
            in_features=in_features,
            out_channels=out_channels,
            norm=norm,
            top_block=top_block,
            fuse_type=fuse_type,
        )
        if global_attention is not None:
            self.global_attention = global_attention
        self._has_global_attention = global_attention is not None

    def forward(self, images: torch.Tensor, padding_mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Feature maps of a batch.

        Args:
            images: (N, 3, H, W), normalised, H and W multiples of ``size_divisibility``.
            padding_mask: (N, H, W) bool, true where the canvas is padding; None where every pixel is image.

        Returns:
            "p3".. -> (N, C, ceil(H / stride), ceil(W / stride)), finest first.
        """
        maps = self.bottom_up(images)
        top_name = self.in_features[-1]
        if self._has_global_attention:
            top = maps[top_name]  # (N, d, H5, W5)
            maps = {**maps, top_name: self.global_attention(top, resize_mask(padding_mask, top.shape[-2:]))}

        outputs: list[torch.Tensor] = []  # coarsest first while it grows
        fused = None
        for name, lateral, output in zip(reversed(self.in_features), self.lateral_convs, self.output_convs):
            side = lateral(maps[name])  # (N, C, H_l, W_l)
            if fused is None:
                fused = side
            else:
                # The target size, not a factor 2: an odd map (a canvas that 32 does not divide) still fits.
                fused = side + F.interpolate(fused, size=side.shape[-2:], mode="nearest")
                if self._fuse_type == "avg":
                    fused = fused / 2
            outputs.append(output(fused))
        outputs.reverse()

        if self.top_block is not None:
            source = self.top_block.in_feature
            top = maps[source] if source in maps else outputs[self._out_features.index(source)]
            outputs.extend(self._coarser_maps(top))
        return dict(zip(self._out_features, outputs))

    def _coarser_maps(self, top: torch.Tensor) -> list[torch.Tensor]:
        if top.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # oneDNN's bfloat16 gradient of the weight of a stride-2 convolution is memory garbage, NaN at times, where
            # the map is one cell wide (torch 2.11).
            with torch.autocast("cpu", enabled=False):
                return self.top_block(top.float())
        return self.top_block(top)


def resize_mask(padding_mask: torch.Tensor | None, size: torch.Size) -> torch.Tensor | None:
    """A padding mask (N, H, W) of bool at another resolution (N, *size), by nearest sampling."""
    if padding_mask is None:
        return None
    resized = F.interpolate(padding_mask[:, None].float(), size=tuple(size), mode="nearest")  # (N, 1, H5, W5)
    return resized[:, 0].to(torch.bool)


def build_fpn(cfg: CfgNode, bottom_up: Backbone) -> FeatureAlignFPN:
    """The FPN that ``cfg.MODEL.FPN`` and ``cfg.MODEL.FEATURE_ALIGN.GLOBAL_ATTENTION`` describe, P3..P7."""
    out_channels = cfg.MODEL.FPN.OUT_CHANNELS
    in_features = cfg.MODEL.FPN.IN_FEATURES
    c5, source = bottom_up.output_shape()[in_features[-1]].channels, cfg.MODEL.FEATURE_ALIGN.P6_FEATURE
    if source not in ("p5", in_features[-1]):
        raise UserError(f"MODEL.FEATURE_ALIGN.P6_FEATURE is {source!r}, but must be p5 or {in_features[-1]}")
    return FeatureAlignFPN(
        bottom_up,
        in_features,
        out_channels,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelP6P7(out_channels if source == "p5" else c5, out_channels, in_feature=source),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
        global_attention=build_global_attention(cfg, c5),
    )


def build_global_attention(cfg: CfgNode, channels: int) -> GlobalAttentionEncoder | None:
    """The encoder for a C5 of ``channels`` channels, None where it is switched off."""
    attention = cfg.MODEL.FEATURE_ALIGN.GLOBAL_ATTENTION
    if not attention.ENABLED:
        return None
    try:
        return GlobalAttentionEncoder(
            channels,
            attention.NUM_HEADS,
            attention.DIM_FEEDFORWARD,
            attention.NUM_LAYERS,
            attention.DROPOUT,
            gated=attention.GATED,
        )
    except ValueError as error:  # heads that do not divide the channels, above all
        raise UserError(f"MODEL.FEATURE_ALIGN.GLOBAL_ATTENTION on C5: {error}") from error


@BACKBONE_REGISTRY.register()
def build_feature_align_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FeatureAlignFPN:
    """Detectron2's ResNet or ResNeXt (``cfg.MODEL.RESNETS``) under the FPN."""
    return build_fpn(cfg, build_resnet_backbone(cfg, input_shape))

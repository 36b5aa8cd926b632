"""Any timm model with feature maps at strides 8, 16 and 32 as the bottom-up network of the FPN."""

import difflib
import logging
from types import ModuleType
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

from fa_detectron.errors import UserError

from .fpn import FeatureAlignFPN, build_fpn
from .timm_weights import TIMMS_OWN, load_timm_weights

logger = logging.getLogger(__name__)

# Output names as a ResNet's, so that MODEL.FPN.IN_FEATURES means the same for every backbone.
_STRIDE_OF = {"res3": 8, "res4": 16, "res5": 32}
_NORMS = ("FrozenBN", "BN")
_PIXEL_TOLERANCE = 2.0  # of 255


class TimmBackbone(Backbone):
    """Maps "res3", "res4", "res5" (strides 8, 16, 32) of a timm model, which sits in ``self.body``."""

    def __init__(
        self,
        name: str,
        *,
        in_channels: int = 3,
        weights: str = "",
        norm: str = "FrozenBN",
        freeze_at: int = 0,
    ) -> None:
        """
        Args:
            name: timm's name of the model.
            in_channels: channels of the images.
            weights: "", "timm" (timm fetches its own), "package:NAME" or a file, see ``load_timm_weights``.
            norm: "FrozenBN" or "BN".
            freeze_at: as Detectron2's MODEL.BACKBONE.FREEZE_AT: no gradient for whatever comes before and
                makes the map of stride 2**freeze_at (1: the stem, 2: up to stride 4); 0 freezes nothing.
        """
        super().__init__()
        timm = _import_timm()
        if norm not in _NORMS:
            raise UserError(f"MODEL.TIMM.NORM is '{norm}': choose one of {', '.join(_NORMS)}.")
        indices = _feature_indices(timm, name, in_channels)
        if weights == TIMMS_OWN:
            body = _fetch(timm, name, in_channels, out_indices=indices)
        else:
            body = _create(timm, name, in_channels, out_indices=indices)
        if weights and weights != TIMMS_OWN:
            load_timm_weights(body, name, weights)
        if freeze_at > 0:
            _freeze(body, name, freeze_at)
        _freeze_norms(timm, body, all_of_them=norm == "FrozenBN")
        self.body = body
        self._channels_last = _is_channels_last(body)
        self._out_features = list(_STRIDE_OF)
        self._out_feature_strides = dict(_STRIDE_OF)
        self._out_feature_channels = dict(zip(_STRIDE_OF, body.feature_info.channels()))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, 3, H, W) normalised images -> name to (N, C_l, ceil(H / stride), ceil(W / stride))."""
        return dict(zip(self._out_features, _channels_first(self.body(images), self._channels_last)))


def _import_timm() -> ModuleType:
    try:
        import timm
        import timm.layers
    except ModuleNotFoundError as error:
        raise UserError("MODEL.TIMM needs the package timm: pip install timm") from error
    return timm


def _create(timm: ModuleType, name: str, in_channels: int, **kwargs: Any) -> Any:
    """The model as a feature extractor; one of a fixed image size is asked to take any, where it can."""
    kwargs = {"features_only": True, "in_chans": in_channels, **kwargs}
    if timm.get_pretrained_cfg(name).fixed_input_size:
        try:
            return timm.create_model(name, strict_img_size=False, **kwargs)
        except TypeError:  # the model has no such argument
            pass
    return timm.create_model(name, **kwargs)


def _fetch(timm: ModuleType, name: str, in_channels: int, **kwargs: Any) -> Any:
    """The model with the pre-trained weights that timm downloads, or has downloaded before."""
    try:
        return _create(timm, name, in_channels, pretrained=True, **kwargs)
    except Exception as error:  # of timm, of its hub client, of the network
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"MODEL.TIMM.WEIGHTS timm: timm cannot fetch the weights of '{name}' ({reason:.300}). Without a network, "
            "give a file of its weights (.pth or .safetensors) instead"
        ) from error


def _compare_pixels(timm: ModuleType, cfg: CfgNode) -> None:
    """Warn where the input is not normalised as the fetched weights were trained with."""
    trained = timm.get_pretrained_cfg(cfg.MODEL.TIMM.NAME)
    wanted = [[255 * value for value in values] for values in (trained.mean, trained.std)]
    given = [list(cfg.MODEL.PIXEL_MEAN), list(cfg.MODEL.PIXEL_STD)]
    far = any(abs(a - b) > _PIXEL_TOLERANCE for pair in zip(wanted, given) for a, b in zip(*pair))
    if far or cfg.INPUT.FORMAT != "RGB":
        logger.warning(
            "the weights of %s were trained with INPUT.FORMAT RGB, MODEL.PIXEL_MEAN %s and MODEL.PIXEL_STD %s; the "
            "config has %s, %s and %s",
            *(cfg.MODEL.TIMM.NAME, *([round(v, 2) for v in values] for values in wanted)),
            *(cfg.INPUT.FORMAT, *given),
        )


def _is_channels_last(body: torch.nn.Module) -> bool:
    return str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")


def _channels_first(maps: list[torch.Tensor], channels_last: bool) -> list[torch.Tensor]:
    """Maps as (N, C, H, W), whatever the model gives."""
    return [m.permute(0, 3, 1, 2).contiguous() for m in maps] if channels_last else maps


def _feature_indices(timm: ModuleType, name: str, in_channels: int) -> list[int]:
    """Indices of the model's maps at strides 8, 16, 32; refuses a model that does not have them."""
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else " timm.list_models() gives the names."
        raise UserError(f"MODEL.TIMM.NAME is '{name}', which timm does not know.{hint}")
    refusal = f"MODEL.TIMM.NAME is '{name}', which gives no feature maps at strides 8, 16 and 32"
    try:
        with torch.random.fork_rng(devices=[]):  # the probe must not change what the seed gives the detector
            probe = _create(timm, name, in_channels).eval()
        strides = probe.feature_info.reduction()
    except Exception as error:  # timm's models refuse in many ways: RuntimeError, TypeError, AttributeError
        raise UserError(f"{refusal} ({error}). Choose another model.") from error
    if any(strides.count(stride) != 1 for stride in _STRIDE_OF.values()):
        raise UserError(f"{refusal} (but at {strides}). Choose another model.")
    chosen = [strides.index(stride) for stride in _STRIDE_OF.values()]

    # What the model says and what it does can differ, above all where it is made for one image size.
    height, width = 64, 96
    try:
        with torch.no_grad():
            maps = _channels_first(probe(torch.zeros(1, in_channels, height, width)), _is_channels_last(probe))
    except Exception as error:
        raise UserError(f"{refusal} for images of any size ({error}). Choose another model.") from error
    for i in chosen:
        shape = (1, probe.feature_info.channels()[i], height // strides[i], width // strides[i])
        if tuple(maps[i].shape) != shape:
            raise UserError(f"{refusal} (a map is {tuple(maps[i].shape)}, not {shape}). Choose another model.")
    return [probe.feature_info.out_indices[i] for i in chosen]


def _freeze(body: Any, name: str, freeze_at: int) -> None:
    """No gradient up to the module that makes the map of stride 2**freeze_at.

    Modules are taken in the order of their registration, which is the order of their use (timm's own
    feature extractors rely on the same).
    """
    last = {entry["reduction"]: entry["module"] for entry in body.feature_info.info}.get(2**freeze_at, "")
    # timm flattens "blocks.1" to "blocks_1" in some extractors and puts the model below "model" in others.
    wanted = {above + form for above in ("", "model.") for form in (last, last.replace(".", "_"))}
    modules = dict(body.named_modules())
    found = next((key for key in modules if last and key in wanted), None)
    if found is None:
        raise UserError(
            f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}, but '{name}' names no module for its map of stride "
            f"{2**freeze_at}. Set MODEL.BACKBONE.FREEZE_AT 0."
        )
    reached = False
    for key, module in modules.items():
        if reached and not key.startswith(found + "."):
            break
        reached = reached or key == found
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)


def _freeze_norms(timm: ModuleType, module: torch.nn.Module, all_of_them: bool) -> None:
    """Make BatchNorm layers constant, all or those whose scale gets no gradient (in place)."""
    for key, child in module.named_children():
        if isinstance(child, torch.nn.BatchNorm2d) and (all_of_them or not child.weight.requires_grad):
            # timm's converter keeps the activation that timm folds into its norm layers; Detectron2's drops it.
            setattr(module, key, timm.layers.freeze_batch_norm_2d(child))
        else:
            _freeze_norms(timm, child, all_of_them)


@BACKBONE_REGISTRY.register()
def build_feature_align_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FeatureAlignFPN:
    """The timm model that ``cfg.MODEL.TIMM`` names under the FPN."""
    weights, norm = cfg.MODEL.TIMM.WEIGHTS, cfg.MODEL.TIMM.NORM
    if cfg.MODEL.WEIGHTS:
        weights = ""  # the checkpoint replaces them, so a finished run does not need their package any more
    elif weights == TIMMS_OWN:
        _compare_pixels(_import_timm(), cfg)
    elif norm == "FrozenBN" and not weights:
        logger.warning("MODEL.TIMM.NORM is FrozenBN, but MODEL.TIMM.WEIGHTS brings no statistics for it to keep.")
    bottom_up = TimmBackbone(
        cfg.MODEL.TIMM.NAME,
        in_channels=input_shape.channels,
        weights=weights,
        norm=norm,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
    return build_fpn(cfg, bottom_up)

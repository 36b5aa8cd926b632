"""MODEL.CHANNELS_LAST: another memory format on CUDA, the same numbers."""

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.config import get_cfg

from fa_detectron import add_feature_align_config
from fa_detectron.modeling import FeatureAlign
from tests.engine.test_distributed import build_batch, build_model


def layout(tensor: torch.Tensor) -> str:
    if tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
        return "either"  # one pixel, or one channel
    return "contiguous" if tensor.is_contiguous() else "channels_last"


@pytest.mark.parametrize("method", ["FeatureAlign", "AutoAssign"])
def test_losses_and_gradients_are_the_same(method: str) -> None:
    batch = build_batch("unequal")
    results = []
    for channels_last in (False, True):
        model = build_model(method, num_convs=2, channels_last=channels_last).double()
        formats = set()
        for module in model.head.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(lambda _, __, out, seen=formats: seen.add(layout(out)))
        losses = model(batch)
        gradients = torch.autograd.grad(sum(losses.values()), [p for p in model.parameters() if p.requires_grad])
        results.append([*losses.values(), *gradients])
        # The attention gives channels_last maps by itself.
        assert ("contiguous" in formats) != channels_last and ("channels_last" in formats or not channels_last)
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8 * max(1.0, theirs.abs().max().item()))


@pytest.mark.parametrize(
    ("device", "key", "wanted"),
    [("cuda", True, True), ("cuda:1", True, True), ("cuda", False, False), ("cpu", True, False)],
)
def test_it_is_for_cuda_alone(device: str, key: bool, wanted: bool) -> None:
    cfg = get_cfg()
    add_feature_align_config(cfg)
    assert cfg.MODEL.CHANNELS_LAST
    cfg.MODEL.BACKBONE.NAME = "build_feature_align_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.DEVICE, cfg.MODEL.CHANNELS_LAST = device, key
    assert FeatureAlign.from_config(cfg)["channels_last"] is wanted

"""What really runs: one training step and one inference of every config, profiled.

The config's own switches; only the size is cut down (backbone, channels, canvas).
"""

import pytest
import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch.profiler import ProfilerActivity, profile

from benchmarks.eager_loss import eager_loss
from fa_detectron.engine.config_file import load_config
from fa_detectron.ops import native, reference
from tests.modeling.test_configs import CONFIGS, leaves
from tests.modeling.test_meta_arch import make_input

NATIVE_LOSS = {"fa_detectron::quality_statistics", "fa_detectron::quality_loss", "fa_detectron::quality_loss_backward"}
NATIVE_DEFORM = {"fa_detectron::deform_conv2d_levels", "fa_detectron::deform_conv2d_levels_backward"}
# What shows the peers of the benchmarks: the eager loss, torchvision's deformable conv, eager decoding.
PEERS = ("aten::binary_cross_entropy", "torchvision::deform_conv2d", "torchvision::nms", "aten::topk")


@pytest.fixture
def no_plain_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's own plain-PyTorch operators refuse to run."""
    if not native.loaded():
        pytest.skip("the native operators are not built")

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a plain-PyTorch operator ran")

    for name in reference.__all__:
        monkeypatch.setattr(reference, name, refuse)


def cut_down(config: str) -> CfgNode:
    """The config with a small backbone without weights, narrow maps, and the classes that ``make_input`` has."""
    cfg = load_config(str(CONFIGS / config), [])
    cfg.defrost()
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.MODEL.TIMM.WEIGHTS = "cpu", "", ""
    resnet = cfg.MODEL.RESNETS
    resnet.DEPTH, resnet.RES2_OUT_CHANNELS, resnet.NUM_GROUPS, resnet.WIDTH_PER_GROUP = 18, 64, 1, 64
    cfg.MODEL.FPN.OUT_CHANNELS = 64
    cfg.MODEL.FEATURE_ALIGN.GLOBAL_ATTENTION.DIM_FEEDFORWARD = 32
    return cfg


def operators_of(cfg: CfgNode, training: bool) -> set[str]:
    """Names of all operators of a step: forward and backward, or inference."""
    torch.manual_seed(0)
    model = build_model(cfg).train(training)
    batch = [make_input(), make_input(seed=1)]
    with profile(activities=[ProfilerActivity.CPU]) as run, torch.set_grad_enabled(training):
        result = model(batch)
        if training:
            sum(result.values()).backward()
    return {event.key for event in run.key_averages()}


@pytest.mark.usefixtures("no_plain_version")
@pytest.mark.parametrize("config", leaves())
def test_a_training_step_runs_the_native_operators_alone(config: str) -> None:
    cfg = cut_down(config)
    names = operators_of(cfg, training=True)
    assert names >= NATIVE_LOSS
    assert NATIVE_DEFORM & names == (NATIVE_DEFORM if cfg.MODEL.FEATURE_ALIGN.DE_SUBNET else set())
    assert not [name for name in names if name.startswith(PEERS)]


@pytest.mark.usefixtures("no_plain_version")
@pytest.mark.parametrize("config", leaves())
def test_inference_runs_the_native_operators_alone(config: str) -> None:
    cfg = cut_down(config)
    names = operators_of(cfg, training=False)
    assert "fa_detectron::decode_detections" in names
    assert ("fa_detectron::deform_conv2d_levels" in names) == cfg.MODEL.FEATURE_ALIGN.DE_SUBNET
    assert not [name for name in names if name.startswith(PEERS)]


def test_the_profile_would_show_the_peers() -> None:
    """Else the two tests above could not fail."""
    maps, labels = [[torch.randn(1, channels, 4, 4)] for channels in (3, 4, 1)], [torch.tensor([1])]
    box, priors = [torch.tensor([[1.0, 1, 20, 20]])], (torch.zeros(3, 2), torch.ones(3, 2))
    with profile(activities=[ProfilerActivity.CPU]) as run:
        eager_loss(*maps, box, labels, *priors, (8,))
        torchvision.ops.nms(box[0], torch.ones(4).topk(1).values, 0.5)
        torchvision.ops.deform_conv2d(torch.ones(1, 1, 4, 4), torch.zeros(1, 2, 4, 4), torch.ones(1, 1, 1, 1))
    names = {event.key for event in run.key_averages()}
    assert all(any(name.startswith(peer) for name in names) for peer in PEERS)

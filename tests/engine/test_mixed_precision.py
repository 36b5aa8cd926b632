"""Training in bfloat16: where the gradients go, that the loss falls, that nothing becomes infinite."""

import math
from statistics import median

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.config import get_cfg

from fa_detectron import add_feature_align_config
from fa_detectron.engine.run.signals import StopSignals
from fa_detectron.engine.solver import autocast_dtype
from fa_detectron.engine.step import StepTrainer
from fa_detectron.errors import UserError
from fa_detectron.layers import DeformBlock
from fa_detectron.modeling import FeatureAlign
from tests.engine.test_distributed import build_batch, build_model


def gradients(model: FeatureAlign, batch: list[dict], amp: torch.dtype | None) -> tuple[dict[str, float], torch.Tensor]:
    """Losses, and all gradients one after the other."""
    optimizer = torch.optim.SGD(model.parameters())
    optimizer.zero_grad()
    (losses,) = StepTrainer(model, optimizer, seed=0, stop=StopSignals(), amp=amp).gradients([batch])
    return losses, torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


def shrink_offsets(model: FeatureAlign, factor: float) -> list[float]:
    """Scale what the De-Subnets' offsets come from; the list gets their spread in cells at every forward pass."""
    spreads: list[float] = []
    for block in model.modules():
        if isinstance(block, DeformBlock):
            block.offset.weight.data.mul_(factor)
            block.offset.register_forward_hook(lambda _, __, raw: spreads.append(raw[:, :18].float().std().item()))
    return spreads


@pytest.mark.parametrize("method", ["FeatureAlign", "AutoAssign"])
def test_bfloat16_goes_where_float32_goes(method):
    """Noise, from a random start; offsets of a cell or two, as a trained model has.

    The factor matters: the untrained ResNet's maps are large and no GroupNorm stands before this head's only conv, so
    that its offsets spread over 170 cells of a map of 8 x 12. A rounding by a hundredth is then another place of the
    noise, and the gradients have little in common (cosine 0.3), whatever part of the network is kept in float32.
    """
    model, batch = build_model(method), build_batch("unequal")
    spreads = shrink_offsets(model, 0.01)
    (losses, gradient), (low_losses, low) = gradients(model, batch, None), gradients(model, batch, torch.bfloat16)
    assert low_losses == pytest.approx(losses, rel=0.05, abs=1e-3) and low_losses != losses
    assert torch.nn.functional.cosine_similarity(gradient, low, dim=0) > 0.98
    assert low.dtype == torch.float32 and low.isfinite().all()
    assert not spreads or 1 < max(spreads) < 3


def blocks() -> list[dict]:
    """Boxes of one colour a class before a dark noise."""
    batch = build_batch("unequal")
    for record in batch:
        record["image"] //= 8
        truth = record["instances"]
        for (x1, y1, x2, y2), kind in zip(truth.gt_boxes.tensor.int().tolist(), truth.gt_classes.tolist(), strict=True):
            record["image"][kind, y1:y2, x1:x2] += 200
    return batch


def test_bfloat16_trains_and_keeps_float32s_direction():
    """30 steps in bfloat16, and float32's gradient at some of the states that they pass.

    A single state may stand at a kink, where rounding decides the sign: hence the median. It is 0.999 here; the demo's
    trained weights on batches of their own set give 0.991 to 0.998.
    """
    model, batch = build_model("FeatureAlign", num_convs=2), blocks()
    spreads = shrink_offsets(model, 0.2)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    trainer = StepTrainer(model, optimizer, seed=0, stop=StopSignals(), amp=torch.bfloat16)
    totals, cosines = [], []
    for iteration in range(30):
        if iteration >= 15 and iteration % 3 == 0:
            pair = gradients(model, batch, None)[1], gradients(model, batch, torch.bfloat16)[1]
            cosines.append(torch.nn.functional.cosine_similarity(*pair, dim=0).item())
        optimizer.zero_grad()
        (losses,) = trainer.gradients([batch])
        optimizer.step()
        totals.append(sum(losses.values()))
    assert all(map(math.isfinite, totals)) and all(p.isfinite().all() for p in model.parameters())
    assert median(totals[-5:]) < totals[0] / 2
    assert 0.2 < max(spreads[-10:]) < 3  # offsets that are worth sampling at
    assert median(cosines) > 0.99, cosines


@pytest.mark.parametrize(
    ("enabled", "name", "device", "has_bfloat16", "wanted"),
    [
        (False, "", "cuda", True, None),
        (True, "", "cuda", True, torch.bfloat16),
        (True, "", "cuda:1", False, torch.float16),
        (True, "", "cpu", False, torch.bfloat16),
        (True, "float16", "cuda", True, torch.float16),
        (True, "bfloat16", "cuda", False, torch.bfloat16),
    ],
)
def test_the_dtype_is_bfloat16_where_the_device_has_it(enabled, name, device, has_bfloat16, wanted, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    cfg = get_cfg()
    add_feature_align_config(cfg)
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE, cfg.MODEL.DEVICE = enabled, name, device
    assert autocast_dtype(cfg) == wanted


def test_another_dtype_is_refused():
    cfg = get_cfg()
    add_feature_align_config(cfg)
    cfg.SOLVER.AMP.DTYPE = "half"
    with pytest.raises(UserError, match=r"SOLVER\.AMP\.DTYPE is 'half'"):
        autocast_dtype(cfg)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_only_float16_scales_its_losses(dtype):
    parameter = torch.nn.Linear(1, 1)
    trainer = StepTrainer(parameter, torch.optim.SGD(parameter.parameters()), seed=0, stop=StopSignals(), amp=dtype)
    assert trainer.grad_scaler.is_enabled() == (dtype == torch.float16)

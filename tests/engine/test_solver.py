"""Which parameters decay, and with which optimizer."""

import pytest
import torch
from torch import nn

pytest.importorskip("detectron2")

from detectron2.config import get_cfg

from fa_detectron import add_feature_align_config
from fa_detectron.apps.train import argument_parser
from fa_detectron.engine import setup
from fa_detectron.engine.solver import build_optimizer
from fa_detectron.errors import UserError


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8)
        self.mu, self.sigma = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)


def config(**solver):
    cfg = get_cfg()
    add_feature_align_config(cfg)
    for key, value in solver.items():
        cfg.SOLVER[key] = value
    return cfg


@pytest.mark.parametrize("name, kind", [("SGD", torch.optim.SGD), ("ADAMW", torch.optim.AdamW)])
def test_norms_and_gaussian_priors_do_not_decay(name, kind):
    model = Model()
    optimizer = build_optimizer(config(OPTIMIZER=name, WEIGHT_DECAY=0.05), model)
    assert isinstance(optimizer, kind)
    decay = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {n for n, p in model.named_parameters() if p in decay and decay[p] == 0} == {
        "norm.weight", "norm.bias", "mu", "sigma",
    }  # fmt: skip
    assert decay[model.conv.weight] == decay[model.conv.bias] == 0.05
    assert model.frozen not in decay


def test_gradients_are_clipped_as_detectron2s_keys_say():
    cfg = config(OPTIMIZER="SGD", BASE_LR=1.0, MOMENTUM=0.0, WEIGHT_DECAY=0.0)
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "value"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.5
    model = Model()
    optimizer = build_optimizer(cfg, model)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    optimizer.step()
    assert torch.equal(model.mu.detach(), torch.full((2, 2), -0.5))


def test_rates_of_parts_are_factors_of_the_base_rate():
    model = Model()
    factors = [("conv.", 0.1), ("conv.bias", 2.0), ("norm", 0.0)]
    optimizer = build_optimizer(config(BASE_LR=0.5, WEIGHT_DECAY=0.05, LR_FACTORS=factors), model)
    rate = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {n: rate[p] for n, p in model.named_parameters() if p in rate} == pytest.approx(
        {"conv.weight": 0.05, "conv.bias": 1.0, "norm.weight": 0.0, "norm.bias": 0.0, "mu": 0.5, "sigma": 0.5}
    )
    decay = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay[model.conv.weight] == 0.05 and decay[model.mu] == 0


@pytest.mark.parametrize("factors", [[("backbon_e", 0.1)], [("conv", -1)], [("conv",)], ["conv"], [3]])
def test_rates_that_fit_nothing_are_named(factors):
    with pytest.raises(UserError, match="LR_FACTORS"):
        build_optimizer(config(LR_FACTORS=factors), Model())


def test_the_gaussian_priors_decay_where_asked_to():
    model = Model()
    groups = build_optimizer(config(WEIGHT_DECAY=0.05, WEIGHT_DECAY_PRIORS=1e-4), model).param_groups
    decay = {p: group["weight_decay"] for group in groups for p in group["params"]}
    assert decay[model.mu] == decay[model.sigma] == 1e-4 and decay[model.conv.weight] == 0.05


def test_an_unknown_optimizer_is_named():
    with pytest.raises(UserError, match="LION"):
        build_optimizer(config(OPTIMIZER="LION"), Model())


def scaled(tiny, *words):
    fitting = ("SOLVER.IMS_PER_BATCH", 16, "SOLVER.BASE_LR", 0.02, "SOLVER.MAX_ITER", 90, "SOLVER.STEPS", "(60, 80)")
    options = (*fitting, "SOLVER.REFERENCE_WORLD_SIZE", 8, "SOLVER.CHECKPOINT_PERIOD", 1, *words)
    return setup(argument_parser().parse_args([str(word) for word in (*tiny.args, *options)])).SOLVER


def test_rate_and_schedule_follow_the_batch(tiny, capsys):
    """Eight workers of two images in the config; here is one."""
    solver = scaled(tiny)
    assert (solver.IMS_PER_BATCH, solver.MAX_ITER, solver.STEPS) == (2, 720, (480, 640))
    assert solver.BASE_LR == pytest.approx(0.0025) and solver.CHECKPOINT_PERIOD == 8
    solver = scaled(tiny, "SOLVER.ACCUMULATION_STEPS", 8)
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (16, 0.02, 90)
    solver = scaled(tiny, "SOLVER.ACCUMULATION_STEPS", 16)
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.CHECKPOINT_PERIOD) == (32, 0.04, 1)
    with pytest.raises(UserError, match=r"IMS_PER_BATCH 15 cannot be shared evenly by the 8 workers"):
        scaled(tiny, "SOLVER.IMS_PER_BATCH", 15)

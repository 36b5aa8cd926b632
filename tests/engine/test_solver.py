"""Which parameters decay, and with which optimizer."""

import pytest
import torch
from torch import nn

pytest.importorskip("detectron2")

from detectron2.config import get_cfg

from fa_detectron import add_feature_align_config
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


def test_an_unknown_optimizer_is_named():
    with pytest.raises(UserError, match="LION"):
        build_optimizer(config(OPTIMIZER="LION"), Model())

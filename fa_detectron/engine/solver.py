"""The optimizer: SGD or AdamW, with the weight decay that the method needs."""

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

from fa_detectron.errors import UserError


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Optimizer from SOLVER's keys, gradient clipping (SOLVER.CLIP_GRADIENTS) included.

    Norms have SOLVER.WEIGHT_DECAY_NORM. The Gaussian priors ``mu`` and ``sigma`` have no decay: it would pull sigma
    towards 0, that is, every location away from its box.

    Raises:
        UserError: an unknown SOLVER.OPTIMIZER.
    """
    params = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        overrides={"mu": {"weight_decay": 0.0}, "sigma": {"weight_decay": 0.0}},
    )
    common = {"lr": cfg.SOLVER.BASE_LR, "weight_decay": cfg.SOLVER.WEIGHT_DECAY}
    if cfg.SOLVER.OPTIMIZER == "SGD":
        optimizer = torch.optim.SGD(params, momentum=cfg.SOLVER.MOMENTUM, nesterov=cfg.SOLVER.NESTEROV, **common)
    elif cfg.SOLVER.OPTIMIZER == "ADAMW":
        optimizer = torch.optim.AdamW(params, **common)
    else:
        raise UserError(f"SOLVER.OPTIMIZER {cfg.SOLVER.OPTIMIZER}: expected SGD or ADAMW")
    return maybe_add_gradient_clipping(cfg, optimizer)

"""The optimizer (SGD or AdamW) with its learning rates and weight decay, mixed precision, averaged weights."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping, reduce_param_groups
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fa_detectron.errors import UserError


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of SOLVER's keys, with gradient clipping (SOLVER.CLIP_GRADIENTS).

    Norms have SOLVER.WEIGHT_DECAY_NORM, the Gaussian priors ``mu`` and ``sigma`` SOLVER.WEIGHT_DECAY_PRIORS: decay
    would pull sigma towards 0, and with it every location away from its box.

    Raises:
        UserError: an unknown SOLVER.OPTIMIZER, or SOLVER.LR_FACTORS that match nothing.
    """
    params = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        overrides={name: {"weight_decay": cfg.SOLVER.WEIGHT_DECAY_PRIORS} for name in ("mu", "sigma")},
    )
    if cfg.SOLVER.LR_FACTORS:
        params = _scale_rates(params, model, cfg.SOLVER.LR_FACTORS)
    common = {"lr": cfg.SOLVER.BASE_LR, "weight_decay": cfg.SOLVER.WEIGHT_DECAY}
    if cfg.SOLVER.OPTIMIZER == "SGD":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            params, momentum=cfg.SOLVER.MOMENTUM, nesterov=cfg.SOLVER.NESTEROV, **common
        )
    elif cfg.SOLVER.OPTIMIZER == "ADAMW":
        optimizer = torch.optim.AdamW(params, **common)
    else:
        raise UserError(f"SOLVER.OPTIMIZER {cfg.SOLVER.OPTIMIZER}: expected SGD or ADAMW")
    return maybe_add_gradient_clipping(cfg, optimizer)


def use_settings(
    optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler, options: list[dict[str, Any]]
) -> None:
    """Restore the config's options after a checkpoint was loaded, and set the learning rate of the next step.

    A checkpoint has the rate, decay and momentum of the config under which it was written. If nothing has changed, all
    stays as it is, to the bit.

    Args:
        optimizer, scheduler: as loaded from a checkpoint.
        options: of each parameter group, as they were before.
    """
    for group, of_config in zip(optimizer.param_groups, options, strict=True):
        group.update(of_config)
    scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
        group["lr"] = rate


def _scale_rates(params: list[dict[str, Any]], model: nn.Module, factors: Any) -> list[dict[str, Any]]:
    """The parameter groups with learning rates scaled by SOLVER.LR_FACTORS."""
    try:
        factor_of = {str(start): float(factor) for start, factor in factors}
    except (TypeError, ValueError):
        raise UserError(f"SOLVER.LR_FACTORS is {factors}; expected [(start of a name, factor), ...]") from None
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    for start, factor in factor_of.items():
        if factor < 0 or not any(name.startswith(start) for name in name_of.values()):
            raise UserError(
                f"SOLVER.LR_FACTORS: {start!r} with factor {factor}: expected the start of a parameter's name, as "
                f"{next(iter(name_of.values()))}, and a factor that is not negative"
            )
    groups = []
    for group in params:
        for parameter in group["params"]:
            fits = [start for start in factor_of if name_of[parameter].startswith(start)]
            factor = factor_of[max(fits, key=len)] if fits else 1.0
            groups.append({**group, "params": [parameter], "lr": group["lr"] * factor})
    return reduce_param_groups(groups)


def autocast_dtype(cfg: CfgNode) -> torch.dtype | None:
    """The dtype of SOLVER.AMP, by default bfloat16 if the device supports it; None without mixed precision.

    Raises:
        UserError: an unknown SOLVER.AMP.DTYPE.
    """
    name, on_cuda = cfg.SOLVER.AMP.DTYPE, cfg.MODEL.DEVICE.startswith("cuda")
    if name not in ("", "bfloat16", "float16"):
        raise UserError(f'SOLVER.AMP.DTYPE is {name!r}, but must be bfloat16, float16 or "" (what the device has)')
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    if not name:
        name = "float16" if on_cuda and not torch.cuda.is_bf16_supported(including_emulation=False) else "bfloat16"
    return getattr(torch, name)


def build_average(cfg: CfgNode, model: nn.Module) -> AveragedModel | None:
    """The exponential moving average of the weights, with SOLVER.EMA_DECAY per step; None if that is 0.

    Raises:
        UserError: a decay outside 0 <= decay < 1.
    """
    decay = cfg.SOLVER.EMA_DECAY
    if not 0 <= decay < 1:
        raise UserError(f"SOLVER.EMA_DECAY is {decay}, but must be at least 0 (no average) and below 1")
    if not decay:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)).requires_grad_(False)

"""What a run starts from: weights, or a stopped run and the settings changed since."""

import logging
import os
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_lr_scheduler

from fa_detectron.engine.config_file import flatten, load_config
from fa_detectron.engine.step import BatchShares
from fa_detectron.errors import UserError

_logger = logging.getLogger(__name__)
# Keys that cannot be changed when a run is resumed, and why.
_FIXED = {
    "SEED": "the order of the data and all that is drawn follow from it",
    "DATASETS.CLASS_NAMES": "the weights have learned these classes, in this order",
    "DATASETS.KEEP_CLASSES": "what is an object and what is background would change",
    "DATASETS.SINGLE_CLASS": "what the classes mean would change",
    "SOLVER.LR_FACTORS": "the optimizer's state in its checkpoints is stored by groups of parameters, which they make",
    "SOLVER.OPTIMIZER": "the state in its checkpoints is that of the other optimizer",
    "MODEL.FEATURE_ALIGN.PRIOR_PROB": "it only matters where a run starts",
    "MODEL.WEIGHTS": "its weights come from its own checkpoint",
    "MODEL.TIMM.WEIGHTS": "its weights come from its own checkpoint",
}


class Change(NamedTuple):
    """A setting that has changed."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.before!r} -> {self.now!r}"


def settings_before(cfg: CfgNode) -> CfgNode | None:
    """The config of the run in OUTPUT_DIR; None, with a warning, if it cannot be read."""
    path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
    try:
        return load_config(path)
    except UserError as error:
        _logger.warning("cannot tell whether settings have changed since the run stopped: %s", error)
        return None


def changes(before: CfgNode, cfg: CfgNode) -> list[Change]:
    """The settings that differ, except OUTPUT_DIR."""
    old, new = flatten(before), flatten(cfg)
    keys = [key for key in new if key in old and key != "OUTPUT_DIR"]
    return [Change(key, old[key], new[key]) for key in keys if old[key] != new[key]]


def check_resumable(cfg: CfgNode) -> CfgNode | None:
    """Refuse changes that a resumed run cannot apply; weights that are not named stay those of the run (in place).

    Returns:
        The config of the run so far; None if it cannot be read.

    Raises:
        UserError: names these settings with their old and new values.
    """
    before = settings_before(cfg)
    if before is None:
        return None
    for section, old in ((cfg.MODEL, before.MODEL), (cfg.MODEL.TIMM, before.MODEL.TIMM)):
        same = os.path.abspath(section.WEIGHTS) == os.path.abspath(old.WEIGHTS)
        section.WEIGHTS = old.WEIGHTS if same or not section.WEIGHTS else section.WEIGHTS
    refused = [f"{change} ({_FIXED[change.key]})" for change in changes(before, cfg) if change.key in _FIXED]
    if refused:
        raise UserError(
            f"--resume: the run in {cfg.OUTPUT_DIR} cannot be resumed with {'; '.join(refused)}. Restore these, or "
            "start a new run in another OUTPUT_DIR with MODEL.WEIGHTS of this one"
        )
    return before


def learning_rate(cfg: CfgNode, iteration: int) -> float:
    """The learning rate of the step after ``iteration`` steps, by the config."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    scheduler.last_epoch = min(iteration, cfg.SOLVER.MAX_ITER)
    return scheduler.get_lr()[0]


def report_changes(cfg: CfgNode, start: int) -> None:
    """Log what has changed since the run stopped, and what the learning rate will do.

    Args:
        cfg: of the resumed run; OUTPUT_DIR still has the old config.
        start: iterations that are done.
    """
    before = settings_before(cfg)
    found = changes(before, cfg) if before is not None else []
    if not found:
        return
    _logger.warning("settings changed since the run stopped:\n%s", "\n".join(f"  {change}" for change in found))
    last = cfg.SOLVER.MAX_ITER - 1
    if start > last:
        return
    old, new = ([learning_rate(c, i) for i in (start, last)] for c in (before, cfg))
    if old != new:
        _logger.warning(
            "learning rate: %g at iteration %d, %g at iteration %d, %g at the last one, %d (it would have been %g, %g)",
            *(learning_rate(before, max(start - 1, 0)), start, new[0], start + 1, new[1], last + 1, *old),
        )


def starting_weights(cfg: CfgNode) -> str:
    """The message about what a new run starts from."""
    if cfg.MODEL.WEIGHTS:
        return f"starting from the weights in {cfg.MODEL.WEIGHTS}; weights missing there are initialised at random"
    timm = cfg.MODEL.TIMM
    if cfg.MODEL.BACKBONE.NAME == "build_feature_align_timm_fpn_backbone" and timm.WEIGHTS:
        return f"the backbone {timm.NAME} starts from the weights of {timm.WEIGHTS}, all others are random"
    return "all weights are initialised at random, the backbone's too (MODEL.WEIGHTS is empty)"


def effect_of_shares(before: BatchShares, now: BatchShares) -> str:
    """What changes for a run that is resumed with other shares; "" if nothing does."""
    if before == now:
        return ""
    if before.images != now.images:
        change = "an iteration has a different number of images, so their order changes, and the learning rate and "
        change += "schedule are those of the new config"
    elif before.workers * before.parts != now.workers * now.parts:
        change = "the images continue where they stopped, but are grouped into other batches "
        change += "(DATALOADER.ASPECT_RATIO_GROUPING separates wide from tall images)"
    else:
        change = "the images continue unchanged; only random numbers drawn within a step (dropout) differ"
    return f"a step was {before}, now it is {now}: {change}"

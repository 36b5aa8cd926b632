"""How long a run trains, and when it warms up, evaluates and saves: settled once, before it starts."""

import logging

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from fa_detectron.errors import UserError

_logger = logging.getLogger(__name__)
_WARMUP_SHARE = 10  # the warm-up takes at most this part of a run
_TIMES = 10  # evaluations and checkpoints of a run on data given by path
_MINUTES = 10.0  # and the time after which such a run writes a checkpoint


def settle_schedule(cfg: CfgNode, workers: int, given: set[str]) -> CfgNode:
    """The config with the schedule that runs.

    Args:
        cfg: not frozen.
        workers: processes times accumulated batches.
        given: config keys that the user's files and arguments set.

    Returns:
        A config scaled to the workers; the warm-up is at most a tenth of the run; a run on data given by path
        evaluates and saves at least ten times, and saves every ten minutes, where the user says nothing else.

    Raises:
        UserError: SOLVER.REFERENCE_WORLD_SIZE does not divide the batch.
    """
    cfg = _scale_to_workers(cfg, workers)
    _cap_warmup(cfg)
    if cfg.DATASETS.TRAIN_PATH:
        _choose_periods(cfg, given)
    return cfg


def _scale_to_workers(cfg: CfgNode, workers: int) -> CfgNode:
    """Detectron2's linear rule where SOLVER.REFERENCE_WORLD_SIZE is not 0; a batch that is accumulated is a worker.

    The images a worker stay as they are, the rate grows with the number of workers, the schedule shrinks.
    """
    solver = cfg.SOLVER
    if solver.REFERENCE_WORLD_SIZE and solver.IMS_PER_BATCH % solver.REFERENCE_WORLD_SIZE:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH} cannot be shared evenly by the "
            f"{solver.REFERENCE_WORLD_SIZE} workers of SOLVER.REFERENCE_WORLD_SIZE"
        )
    scaled = DefaultTrainer.auto_scale_workers(cfg, workers)
    # Rounded to 0 they would mean never.
    scaled.SOLVER.CHECKPOINT_PERIOD = max(min(cfg.SOLVER.CHECKPOINT_PERIOD, 1), scaled.SOLVER.CHECKPOINT_PERIOD)
    scaled.TEST.EVAL_PERIOD = max(min(cfg.TEST.EVAL_PERIOD, 1), scaled.TEST.EVAL_PERIOD)
    return scaled


def _cap_warmup(cfg: CfgNode) -> None:
    """A run not longer than its warm-up would learn nothing."""
    solver = cfg.SOLVER
    most = max(solver.MAX_ITER, 0) // _WARMUP_SHARE
    if solver.WARMUP_ITERS > most:
        text = "SOLVER.WARMUP_ITERS %d -> %d: the warm-up takes at most a tenth of the %d iterations"
        _logger.warning(text, solver.WARMUP_ITERS, most, solver.MAX_ITER)
        solver.WARMUP_ITERS = most


def _choose_periods(cfg: CfgNode, given: set[str]) -> None:
    solver, most = cfg.SOLVER, max(1, cfg.SOLVER.MAX_ITER // _TIMES)
    if "TEST.EVAL_PERIOD" not in given:
        cfg.TEST.EVAL_PERIOD = most
    if "SOLVER.CHECKPOINT_PERIOD" not in given:
        solver.CHECKPOINT_PERIOD = min(solver.CHECKPOINT_PERIOD, most)
        if "SOLVER.CHECKPOINT_MINUTES" not in given:
            solver.CHECKPOINT_MINUTES = _MINUTES
    minutes = f", or after {solver.CHECKPOINT_MINUTES:g} minutes" if solver.CHECKPOINT_MINUTES > 0 else ""
    _logger.info(
        "evaluating every %d iterations, a checkpoint every %d%s "
        "(TEST.EVAL_PERIOD, SOLVER.CHECKPOINT_PERIOD, SOLVER.CHECKPOINT_MINUTES; 0: at the end alone)",
        *(cfg.TEST.EVAL_PERIOD, solver.CHECKPOINT_PERIOD, minutes),
    )

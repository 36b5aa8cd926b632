"""How long a run trains, and when it warms up, evaluates and saves: determined before its first iteration."""

import logging
import math
import sys
from collections.abc import Collection

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from fa_detectron.errors import UserError

_logger = logging.getLogger(__name__)
_WARMUP_SHARE = 10  # the warm-up takes at most one tenth of a run
_TIMES = 10  # evaluations and checkpoints of a run on data given by path
_MINUTES = 10.0  # between its checkpoints, at most
_ITERATIONS = "SOLVER.MAX_ITER"
_WAYS = {"--epochs": "SOLVER.EPOCHS", "--minutes": "SOLVER.MINUTES", _ITERATIONS: _ITERATIONS}


def scale_to_workers(cfg: CfgNode, workers: int) -> CfgNode:
    """Detectron2's linear scaling rule, if SOLVER.REFERENCE_WORLD_SIZE is not 0. Accumulated batches count as workers.

    The images per worker stay as they are, the learning rate grows with the number of workers, the schedule shrinks.

    Args:
        cfg: not frozen.
        workers: processes times accumulated batches.

    Raises:
        UserError: SOLVER.REFERENCE_WORLD_SIZE does not divide the batch.
    """
    solver = cfg.SOLVER
    if solver.REFERENCE_WORLD_SIZE and solver.IMS_PER_BATCH % solver.REFERENCE_WORLD_SIZE:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH} cannot be shared evenly by the "
            f"{solver.REFERENCE_WORLD_SIZE} workers of SOLVER.REFERENCE_WORLD_SIZE"
        )
    scaled = DefaultTrainer.auto_scale_workers(cfg, workers)
    # Rounded to 0, they would mean never.
    scaled.SOLVER.CHECKPOINT_PERIOD = max(min(cfg.SOLVER.CHECKPOINT_PERIOD, 1), scaled.SOLVER.CHECKPOINT_PERIOD)
    scaled.TEST.EVAL_PERIOD = max(min(cfg.TEST.EVAL_PERIOD, 1), scaled.TEST.EVAL_PERIOD)
    return scaled


def choose_length(cfg: CfgNode, typed: Collection[str]) -> None:
    """Determine whether SOLVER.EPOCHS, MINUTES or MAX_ITER counts (in place): EPOCHS or MINUTES is 0, or both are.

    Args:
        typed: config keys that the command line sets; --epochs and --minutes set theirs.

    Raises:
        UserError: contradicting or meaningless lengths.
    """
    solver = cfg.SOLVER
    chosen = [way for way, key in _WAYS.items() if key in typed]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)} both say how long to train; give one of them")
    for flag, key in (("--epochs", "EPOCHS"), ("--minutes", "MINUTES")):
        if chosen and flag not in chosen:
            solver[key] = 0.0
        if not 0 <= solver[key] < math.inf:
            raise UserError(f"SOLVER.{key} is {solver[key]}, must be a number above 0, or 0.0 for none")
    auto = solver.AUTO_LENGTH
    if auto.EPOCHS < 0 or not 1 <= auto.MIN_ITER <= auto.MAX_ITER:
        raise UserError(
            f"SOLVER.AUTO_LENGTH is EPOCHS {auto.EPOCHS}, MIN_ITER {auto.MIN_ITER}, MAX_ITER {auto.MAX_ITER}; "
            "expected 0 <= EPOCHS and 1 <= MIN_ITER <= MAX_ITER"
        )
    if solver.EPOCHS and solver.MINUTES:
        raise UserError(
            f"SOLVER.EPOCHS {solver.EPOCHS:g} and SOLVER.MINUTES {solver.MINUTES:g}: set one of them to 0.0"
        )


def keep_length(cfg: CfgNode, before: CfgNode | None, given: Collection[str], typed: Collection[str]) -> int:
    """The iterations of the resumed run, unless another length is given; else 0.

    Keeps how that run's length was chosen (in place: SOLVER.EPOCHS and MINUTES).

    Args:
        before: the config of the run so far, None if it cannot be read.
        given: config keys that the user's files and arguments set.
        typed: those of them that the command line sets.

    Raises:
        UserError: SOLVER.MINUTES is another than it was.
    """
    solver = cfg.SOLVER
    if before is None:
        if solver.MINUTES:
            raise UserError("--minutes: the length of the run so far cannot be read; give SOLVER.MAX_ITER instead")
        return 0
    old = before.SOLVER
    if solver.MINUTES and solver.MINUTES != old.MINUTES:
        how = f"estimated for {old.MINUTES:g} minutes" if old.MINUTES else "not estimated from minutes"
        raise UserError(
            f"--minutes {solver.MINUTES:g}: the run in {cfg.OUTPUT_DIR} has {old.MAX_ITER} iterations, {how}, and a "
            "resumed run is not estimated again. Leave --minutes out, or give SOLVER.MAX_ITER"
        )
    if solver.EPOCHS or _ITERATIONS in typed:
        return 0
    if not (old.EPOCHS or old.MINUTES or _by_size(cfg, given)):
        return 0
    solver.EPOCHS, solver.MINUTES = old.EPOCHS, old.MINUTES
    return old.MAX_ITER


def _by_size(cfg: CfgNode, given: Collection[str]) -> bool:
    return bool(cfg.SOLVER.AUTO_LENGTH.EPOCHS) and _ITERATIONS not in given


def settle_schedule(cfg: CfgNode, images: int, given: Collection[str], kept: int = 0) -> None:
    """Determine length, steps, warm-up and periods (in place).

    SOLVER.STEPS belong to SOLVER.MAX_ITER and move with the length; the warm-up is at most a tenth of it. By default, a
    run on data given by path evaluates and saves at least ten times, and saves every ten minutes. The length for
    SOLVER.MINUTES is set later, by :func:`fix_length`.

    Args:
        cfg: not frozen, scaled to the workers.
        images: of the training set.
        given: config keys that the user's files and arguments set.
        kept: iterations of the run that is resumed, see :func:`keep_length`; 0: none.
    """
    solver = cfg.SOLVER
    measured_later = bool(solver.MINUTES) and not kept
    # In Detectron2, negative periods mean "never", as 0 does; below they mean "not yet determined".
    cfg.TEST.EVAL_PERIOD, solver.CHECKPOINT_PERIOD = max(cfg.TEST.EVAL_PERIOD, 0), max(solver.CHECKPOINT_PERIOD, 0)
    if cfg.DATASETS.TRAIN_PATH:
        _mark_periods(cfg, given)
    if measured_later:
        return
    if kept:
        iterations, why = kept, "as the run so far"
    elif solver.EPOCHS:
        iterations, why = _iterations(cfg, solver.EPOCHS, images), "SOLVER.EPOCHS"
    elif _by_size(cfg, given):
        auto = solver.AUTO_LENGTH
        iterations = min(max(_iterations(cfg, auto.EPOCHS, images), auto.MIN_ITER), auto.MAX_ITER)
        why = "by the size of the set; --epochs, --minutes or SOLVER.MAX_ITER say otherwise"
    else:
        iterations, why = solver.MAX_ITER, "SOLVER.MAX_ITER"
    fix_length(cfg, iterations)
    _logger.info("length: %s (%s)", length_in_words(cfg, images), why)


def _iterations(cfg: CfgNode, epochs: float, images: int) -> int:
    return max(1, math.ceil(epochs * images / cfg.SOLVER.IMS_PER_BATCH))


def length_in_words(cfg: CfgNode, images: int) -> str:
    """The length of a run on so many images, in iterations and epochs."""
    solver = cfg.SOLVER
    epochs = solver.MAX_ITER * solver.IMS_PER_BATCH / max(1, images)
    return f"{solver.MAX_ITER} iterations of {solver.IMS_PER_BATCH} images, {epochs:.3g} epochs of {images} images"


def fix_length(cfg: CfgNode, iterations: int) -> None:
    """Set the number of iterations (in place), with the steps, warm-up and periods that depend on it."""
    solver = cfg.SOLVER
    steps = tuple(round(step * iterations / solver.MAX_ITER) for step in solver.STEPS)
    if steps != tuple(solver.STEPS) and solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        text = "SOLVER.STEPS %s -> %s: they move with the length, %d -> %d iterations"
        _logger.info(text, tuple(solver.STEPS), steps, solver.MAX_ITER, iterations)
    solver.STEPS, solver.MAX_ITER = steps, iterations
    _cap_warmup(cfg)
    _settle_periods(cfg)


def _cap_warmup(cfg: CfgNode) -> None:
    """A run no longer than its warm-up would learn nothing."""
    solver = cfg.SOLVER
    most = max(solver.MAX_ITER, 0) // _WARMUP_SHARE
    if solver.WARMUP_ITERS > most:
        text = "SOLVER.WARMUP_ITERS %d -> %d: the warm-up takes at most a tenth of the %d iterations"
        _logger.warning(text, solver.WARMUP_ITERS, most, solver.MAX_ITER)
        solver.WARMUP_ITERS = most


def _mark_periods(cfg: CfgNode, given: Collection[str]) -> None:
    """Make undetermined periods negative: they become a tenth of the length, and at most as many iterations."""
    solver = cfg.SOLVER
    if "TEST.EVAL_PERIOD" not in given:
        cfg.TEST.EVAL_PERIOD = -sys.maxsize
    if "SOLVER.CHECKPOINT_PERIOD" not in given:
        solver.CHECKPOINT_PERIOD = -solver.CHECKPOINT_PERIOD
        if "SOLVER.CHECKPOINT_MINUTES" not in given:
            solver.CHECKPOINT_MINUTES = _MINUTES


def _settle_periods(cfg: CfgNode) -> None:
    solver, test, most = cfg.SOLVER, cfg.TEST, max(1, cfg.SOLVER.MAX_ITER // _TIMES)
    if test.EVAL_PERIOD >= 0 and solver.CHECKPOINT_PERIOD >= 0:
        return
    if test.EVAL_PERIOD < 0:
        test.EVAL_PERIOD = most
    if solver.CHECKPOINT_PERIOD < 0:
        solver.CHECKPOINT_PERIOD = min(-solver.CHECKPOINT_PERIOD, most)
    minutes = f", or after {solver.CHECKPOINT_MINUTES:g} minutes" if solver.CHECKPOINT_MINUTES > 0 else ""
    _logger.info(
        "evaluating every %d iterations, a checkpoint every %d%s "
        "(TEST.EVAL_PERIOD, SOLVER.CHECKPOINT_PERIOD, SOLVER.CHECKPOINT_MINUTES; 0: at the end alone)",
        *(test.EVAL_PERIOD, solver.CHECKPOINT_PERIOD, minutes),
    )

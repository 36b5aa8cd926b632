"""How long a step takes: for a run of SOLVER.MINUTES before it starts, for every other one once it has begun."""

import logging
import statistics
import time

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch.utils.data import DataLoader

from fa_detectron.engine.schedule import fix_length, length_in_words
from fa_detectron.engine.step import StepTrainer

_logger = logging.getLogger(__name__)
_FIRST, _LEAST, _MOST = 3, 3, 10  # steps that are left out (caches, allocators), and that are measured
_SHARE = 0.05  # of the time of a run, after which no further step is measured
_EVALUATION = 0.8  # time to evaluate an image, one at a time and with all around it, in that to train on one


def fit_to_minutes(cfg: CfgNode, step: StepTrainer, loader: DataLoader) -> CfgNode:
    """The config with the length that SOLVER.MINUTES leave room for, evaluations included; all processes' is the same.

    Args:
        cfg: of a run that has not started.
        step: takes a few steps on the first batches; afterwards all is as before, to the bit.
        loader: of this process; read from its start.
    """
    begin = time.perf_counter()
    seconds, count = _measure(step, loader, 60 * cfg.SOLVER.MINUTES * _SHARE)
    left = comm.all_gather(60 * cfg.SOLVER.MINUTES - (time.perf_counter() - begin))[0]
    fitted = cfg.clone()
    fitted.defrost()
    if cfg.TEST.EVAL_PERIOD < 0:  # ten times
        evaluating = 10 * _evaluation_seconds(cfg, seconds)
        iterations = max(left - evaluating, left / 2) / seconds
    else:
        each = _evaluation_seconds(cfg, seconds)
        per_iteration = each / cfg.TEST.EVAL_PERIOD if cfg.TEST.EVAL_PERIOD else 0.0
        iterations = max(left - each, left / 2) / (seconds + per_iteration)
    fix_length(fitted, max(1, int(iterations)))
    _logger.info(
        "length: %s (SOLVER.MINUTES %g, at %.3g s an iteration, the median of %d, and evaluations)",
        *(length_in_words(fitted, len(loader.dataset.records)), cfg.SOLVER.MINUTES, seconds, count),
    )
    fitted.freeze()
    return fitted


def _measure(step: StepTrainer, loader: DataLoader, most: float) -> tuple[float, int]:
    """(seconds a step of the slowest process, steps measured); stops after ``most`` seconds."""
    state = step.snapshot()
    step.start(loader)
    seconds: list[float] = []
    try:
        with EventStorage():
            while len(seconds) < _FIRST + _LEAST or (len(seconds) < _FIRST + _MOST and sum(seconds) < most):
                step.iter, begin = len(seconds), time.perf_counter()
                step.run_step()
                seconds.append(max(comm.all_gather(time.perf_counter() - begin)))
    finally:
        step.finish()
        step.restore(state)
    return statistics.median(seconds[_FIRST:]), len(seconds) - _FIRST


def _evaluation_seconds(cfg: CfgNode, step_seconds: float) -> float:
    """About how long an evaluation takes where a step takes so long."""
    images = sum(len(DatasetCatalog.get(name)) for name in cfg.DATASETS.TEST)
    return _EVALUATION * images * step_seconds / cfg.SOLVER.IMS_PER_BATCH


class ExpectedTime(HookBase):
    """Says after the first steps how long the run will take.

    Args:
        cfg: of the run.
        images: of the training set.
    """

    def __init__(self, cfg: CfgNode, images: int) -> None:
        self._cfg, self._images, self._seconds = cfg, images, []

    def before_step(self) -> None:
        self._begin = time.perf_counter()

    def after_step(self) -> None:
        if len(self._seconds) == _FIRST + _MOST:
            return
        self._seconds.append(time.perf_counter() - self._begin)
        if len(self._seconds) < _FIRST + _MOST:
            return
        cfg, seconds = self._cfg, statistics.median(self._seconds[_FIRST:])
        left = cfg.SOLVER.MAX_ITER - self.trainer.iter - 1
        evaluations = (left // cfg.TEST.EVAL_PERIOD if cfg.TEST.EVAL_PERIOD > 0 else 0) + 1
        evaluating = evaluations * _evaluation_seconds(cfg, seconds)
        _logger.info(
            "%s: %.3g s an iteration, about %s to go, %s of them for evaluations",
            *(length_in_words(cfg, self._images), seconds),
            *(in_words(left * seconds + evaluating), in_words(evaluating)),
        )


def in_words(seconds: float) -> str:
    """A duration, rounded for people."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"

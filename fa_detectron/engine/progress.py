"""How long a run takes: measured for SOLVER.MINUTES, logged, and shown by a progress bar."""

import logging
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any, cast

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch.utils.data import DataLoader

from fa_detectron.data.registration import count_images
from fa_detectron.engine.schedule import fix_length, length_in_words
from fa_detectron.engine.step import StepTrainer

try:
    import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm
except ImportError:  # an extra; only the bars need it
    tqdm = None

_logger = logging.getLogger(__name__)
_FIRST, _LEAST, _MOST = 3, 3, 10  # steps that are discarded (caches, allocators), and steps that are measured
_SHARE = 0.05  # of the run's time, after which no further step is measured
_EVALUATION = 0.8  # time to evaluate one image, relative to the time to train on one


def fit_to_minutes(cfg: CfgNode, step: StepTrainer, loader: DataLoader) -> CfgNode:
    """The config with the length that fits into SOLVER.MINUTES, evaluations included; the same in all processes.

    Args:
        cfg: of a run that has not started.
        step: takes a few steps on the first batches; afterwards its state is restored to the bit.
        loader: of this process; read from its start.
    """
    begin = time.perf_counter()
    seconds, count = _measure(step, loader, 60 * cfg.SOLVER.MINUTES * _SHARE)
    left = comm.all_gather(60 * cfg.SOLVER.MINUTES - (time.perf_counter() - begin))[0]
    fitted = cfg.clone()
    fitted.defrost()
    each = _evaluation_seconds(cfg, seconds)
    if cfg.TEST.EVAL_PERIOD < 0:  # ten times
        iterations = max(left - 10 * each, left / 2) / seconds
    else:
        per_iteration = each / cfg.TEST.EVAL_PERIOD if cfg.TEST.EVAL_PERIOD else 0.0
        iterations = max(left - each, left / 2) / (seconds + per_iteration)
    fix_length(fitted, max(1, int(iterations)))
    records = cast(Any, loader.dataset).records
    _logger.info(
        "length: %s (SOLVER.MINUTES %g, at %.3g s per iteration, the median of %d, plus evaluations)",
        *(length_in_words(fitted, len(records)), cfg.SOLVER.MINUTES, seconds, count),
    )
    fitted.freeze()
    return fitted


def _measure(step: StepTrainer, loader: DataLoader, most: float) -> tuple[float, int]:
    """(seconds per step of the slowest process, steps measured); stops after ``most`` seconds."""
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
    """The estimated duration of one evaluation."""
    return _EVALUATION * sum(map(count_images, cfg.DATASETS.TEST)) * step_seconds / cfg.SOLVER.IMS_PER_BATCH


class ExpectedTime(HookBase):
    """Logs after the first steps how long the run will take. Needs detectron2's IterationTimer before it.

    Args:
        cfg: the run's config.
        images: in the training set.
    """

    def __init__(self, cfg: CfgNode, images: int) -> None:
        self._cfg, self._images = cfg, images

    def after_step(self) -> None:
        if self.trainer.iter + 1 - self.trainer.start_iter != _FIRST + _MOST:
            return
        cfg, seconds = self._cfg, self.trainer.storage.history("time").median(_MOST)
        left = cfg.SOLVER.MAX_ITER - self.trainer.iter - 1
        evaluations = (left // cfg.TEST.EVAL_PERIOD if cfg.TEST.EVAL_PERIOD > 0 else 0) + 1
        evaluating = evaluations * _evaluation_seconds(cfg, seconds)
        _logger.info(
            "%s: %.3g s per iteration, about %s to go, %s of them for evaluations",
            *(length_in_words(cfg, self._images), seconds),
            *(in_words(left * seconds + evaluating), in_words(evaluating)),
        )


def in_words(seconds: float) -> str:
    """A duration, rounded for people."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def show_bars() -> bool:
    """Whether this process draws bars: the main process, with tqdm, on a terminal."""
    return tqdm is not None and comm.is_main_process() and sys.stderr.isatty()


def _log_above_the_bar() -> AbstractContextManager:
    return logging_redirect_tqdm([logging.getLogger(name) for name in ("fa_detectron", "detectron2", "fvcore")])


class ProgressBar(HookBase):
    """A bar over the iterations of training; log lines are written above it."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def before_train(self) -> None:
        self._stack.enter_context(_log_above_the_bar())
        self._bar = self._stack.enter_context(
            tqdm.tqdm(total=self.trainer.max_iter, initial=self.trainer.start_iter, desc="training", unit="it")
        )

    def after_step(self) -> None:
        self._bar.update()

    def after_train(self) -> None:
        self._stack.close()


class BarLoader:
    """A data loader of known length that draws a bar while it is iterated over."""

    def __init__(self, loader: Iterable, description: str) -> None:
        self._loader: Any = loader
        self._description = description

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __iter__(self) -> Iterator:
        with _log_above_the_bar():
            yield from tqdm.tqdm(self._loader, desc=self._description, unit="image", leave=False)

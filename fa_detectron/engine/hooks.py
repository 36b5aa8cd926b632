"""What happens besides the steps of training: evaluation, with the best checkpoint kept."""

import json
import logging
import math
import os
from collections.abc import Callable
from typing import Any

from detectron2.engine import HookBase, hooks
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from fa_detectron.checkpoint import FeatureAlignCheckpointer
from fa_detectron.files import atomic_write

_logger = logging.getLogger(__name__)


class PreciseBN(hooks.PreciseBN):
    """Detectron2's goes on in its data from one time to the next; here a resumed run sees the same as any."""

    def update_stats(self) -> None:
        self._data_iter = None
        super().update_stats()
        self._data_iter = None  # ends its data workers


class BestCheckpoint:
    """Keeps ``model_best.pth``, by one metric, beside the last checkpoint.

    Detectron2's BestCheckpointer forgets the best value when a run is resumed, and makes its file the one that
    ``--resume`` takes; this one records itself in ``best_checkpoint.json``.

    Args:
        checkpointer: writes into the run's folder.
        metric: a key of the flattened results, higher is better.
    """

    def __init__(self, checkpointer: FeatureAlignCheckpointer, metric: str) -> None:
        self._checkpointer, self.metric = checkpointer, metric
        self._record = os.path.join(checkpointer.save_dir, "best_checkpoint.json")
        self.value, self.iteration = -math.inf, -1

    def restore(self, start_iter: int) -> None:
        """Take up the record of the run that is resumed at ``start_iter``; a new run starts afresh."""
        if start_iter == 0 or not os.path.exists(self._record):
            return
        with open(self._record, encoding="utf-8") as file:
            record = json.load(file)
        if record["metric"] == self.metric and record["iteration"] < start_iter:
            self.value, self.iteration = record["value"], record["iteration"]

    def update(self, results: dict[str, float], iteration: int) -> None:
        """Write the model if its metric is the best so far.

        Args:
            results: the flattened results of this evaluation.
            iteration: of the last step, counted from 0.
        """
        value = results.get(self.metric, math.nan)
        if not math.isfinite(value) or value <= self.value:
            return
        if self._checkpointer.write("model_best", iteration=iteration) is None:
            return
        self.value, self.iteration = value, iteration
        record = {"file": "model_best.pth", "metric": self.metric, "value": value, "iteration": iteration}
        with atomic_write(self._record) as file:
            json.dump(record, file)
        _logger.info("best so far: %s %.3f at iteration %d", self.metric, value, iteration + 1)


class Evaluation(HookBase):
    """Evaluates every ``period`` iterations and after the last one, in all processes together.

    Args:
        period: iterations between evaluations; 0: only at the end.
        evaluate: returns nested results on the main process; may return {} elsewhere.
        best: gets the flattened results, on the main process.
    """

    def __init__(self, period: int, evaluate: Callable[[], dict[str, Any]], best: BestCheckpoint) -> None:
        self._period, self._evaluate, self._best = period, evaluate, best

    def before_train(self) -> None:
        self._best.restore(self.trainer.start_iter)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done < self.trainer.max_iter:
            self._run(self.trainer.iter)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:  # false after a failure
            self._run(self.trainer.max_iter - 1)

    def _run(self, iteration: int) -> None:
        results = flatten_results_dict(self._evaluate())
        if comm.is_main_process():
            # JSON knows no NaN, COCO's value for sizes that the set has no box of.
            finite = {name: value for name, value in results.items() if math.isfinite(value)}
            self.trainer.storage.put_scalars(**finite, smoothing_hint=False)
            self._best.update(finite, iteration)
        comm.synchronize()

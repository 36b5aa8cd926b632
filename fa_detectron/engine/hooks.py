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
    """Keeps ``model_best.pth``, by one metric, beside the last checkpoint, and counts the evaluations since.

    Detectron2's BestCheckpointer forgets the best value when a run is resumed, and makes its file the one that
    ``--resume`` takes; this one records itself in ``best_checkpoint.json``.

    Args:
        checkpointer: writes into the run's folder.
        metric: a key of the flattened results, higher is better.
        patience: evaluations in a row without a better value after which the run has had enough; 0: no number is.

    Attributes:
        since: iterations, counted from 0, that were evaluated since the best and were not better.
    """

    def __init__(self, checkpointer: FeatureAlignCheckpointer, metric: str, patience: int = 0) -> None:
        self._checkpointer, self.metric, self._patience = checkpointer, metric, patience
        self._record = os.path.join(checkpointer.save_dir, "best_checkpoint.json")
        self.value, self.iteration = -math.inf, -1
        self.since: list[int] = []

    @property
    def last(self) -> int:
        """The iteration that was evaluated last, counted from 0; -1 for none."""
        return max(self.iteration, *self.since, -1)

    @property
    def out_of_patience(self) -> bool:
        return 0 < self._patience <= len(self.since)

    def restore(self, start_iter: int) -> None:
        """Take up the record of the run that is resumed at ``start_iter``; a new run starts afresh."""
        if start_iter == 0 or not os.path.exists(self._record):
            return
        with open(self._record, encoding="utf-8") as file:
            record = json.load(file)
        if record["metric"] == self.metric and record["iteration"] < start_iter:
            self.value, self.iteration = record["value"], record["iteration"]
            self.since = [iteration for iteration in record.get("since", ()) if iteration < start_iter]

    def update(self, results: dict[str, float], iteration: int) -> None:
        """Write the model if its metric is the best so far.

        Args:
            results: the flattened results of this evaluation.
            iteration: of the last step, counted from 0.
        """
        value = results.get(self.metric, math.nan)
        better = math.isfinite(value) and value > self.value
        if better:
            if self._checkpointer.write("model_best", iteration=iteration) is None:
                return
            self.value, self.iteration, self.since = value, iteration, []
            _logger.info("best so far: %s %.3f at iteration %d", self.metric, value, iteration + 1)
        elif iteration != self.last:  # which a finished run evaluates again
            self.since.append(iteration)
        if self.iteration < 0:
            return  # there is no best yet
        record = {"file": "model_best.pth", "metric": self.metric, "value": self.value, "iteration": self.iteration}
        with atomic_write(self._record) as file:
            json.dump({**record, "since": self.since}, file)


class Evaluation(HookBase):
    """Evaluates every ``period`` iterations and after the last one, in all processes together.

    A run that is out of patience ends after the iteration that was evaluated, and is not continued then.

    Args:
        period: iterations between evaluations; 0: only at the end.
        evaluate: returns nested results on the main process; may return {} elsewhere.
        best: gets the flattened results, on the main process.
    """

    def __init__(self, period: int, evaluate: Callable[[], dict[str, Any]], best: BestCheckpoint) -> None:
        self._period, self._evaluate, self._best = period, evaluate, best
        self._ended_by_patience = False

    def before_train(self) -> None:
        start = self.trainer.start_iter
        self._best.restore(start)
        missed = self._is_due(start) and comm.all_gather(self._best.last)[0] != start - 1
        if missed:  # the run was ended after the checkpoint, before its evaluation
            self.trainer.iter = start - 1
            self._run(start - 1)
            self.trainer.iter = start
        else:
            self._end_if_out_of_patience(start)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._is_due(done):
            self._run(self.trainer.iter)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter and not self._ended_by_patience:  # less after a failure
            self._run(self.trainer.max_iter - 1)

    def _is_due(self, done: int) -> bool:
        return self._period > 0 and 0 < done < self.trainer.max_iter and done % self._period == 0

    def _run(self, iteration: int) -> None:
        results = flatten_results_dict(self._evaluate())
        if comm.is_main_process():
            # JSON knows no NaN, COCO's value for sizes that the set has no box of.
            finite = {name: value for name, value in results.items() if math.isfinite(value)}
            self.trainer.storage.put_scalars(**finite, smoothing_hint=False)
            self._best.update(finite, iteration)
        comm.synchronize()
        self._ended_by_patience = self._end_if_out_of_patience(iteration + 1)

    def _end_if_out_of_patience(self, done: int) -> bool:
        """Make ``done`` iterations the length of the run, in all processes, if the main process has had enough."""
        end = comm.all_gather(self._best.out_of_patience)[0] and done < self.trainer.max_iter
        if end and comm.is_main_process():
            _logger.warning(
                "early stop after iteration %d of %d: no better %s than %.3f, that of iteration %d (model_best.pth), "
                "in the last %d evaluations. --resume goes on only with a larger --patience, or 0 for none",
                *(done, self.trainer.max_iter, self._best.metric, self._best.value, self._best.iteration + 1),
                len(self._best.since),
            )
        if end:
            self.trainer.max_iter = done
        return end

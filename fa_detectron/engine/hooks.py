"""What happens between the steps of training: checkpoints and evaluations."""

import json
import logging
import math
import os
import time
from collections.abc import Callable
from typing import Any

from detectron2.engine import HookBase, hooks
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from fa_detectron.checkpoint import FeatureAlignCheckpointer, numbered_checkpoints
from fa_detectron.files import atomic_write, remove_unfinished

_logger = logging.getLogger(__name__)


class PreciseBN(hooks.PreciseBN):
    """Starts with the same data each time, so that a resumed run sees the same; Detectron2's continues in its data."""

    def update_stats(self) -> None:
        self._data_iter = None
        super().update_stats()
        self._data_iter = None  # ends its data workers


class Checkpoints(HookBase):
    """Writes ``model_NNNNNNN.pth`` (numbered by the last finished iteration, from 0), which can be resumed, and at the
    end ``model_final.pth``, the weights alone.

    Older checkpoints are removed only after the new one has been written and verified.

    Args:
        checkpointer: of the main process. This hook runs there alone, so that its clock decides; training does not
            depend on when a checkpoint is written.
        period: iterations between checkpoints; 0: none before the end.
        minutes: write one when the last is this old; 0: only ``period`` counts.
        kept: how many numbered ones are kept, at least 2; 0: all.
    """

    def __init__(self, checkpointer: FeatureAlignCheckpointer, period: int, minutes: float, kept: int) -> None:
        self._checkpointer, self._period, self._minutes, self._kept = checkpointer, period, minutes, kept

    def before_train(self) -> None:
        remove_unfinished(self._checkpointer.save_dir)
        self._saved_at = time.monotonic()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done < self.trainer.max_iter and self._is_due(done):
            self.save()

    def finish(self) -> None:
        """Write both files of the last iteration."""
        self.save_final(self.trainer.iter)  # first: a run that has its last checkpoint is complete
        self.save()

    def _is_due(self, done: int) -> bool:
        if self._minutes > 0 and time.monotonic() - self._saved_at >= self._minutes * 60:
            return True
        return self._period > 0 and done % self._period == 0

    def save_final(self, iteration: int) -> None:
        """Write the weights alone; ``iteration``: the last one, counted from 0."""
        self._checkpointer.write("model_final", iteration=iteration)

    def save(self) -> str:
        """Write the state after the current iteration unless that is already written; returns the path."""
        name = f"model_{self.trainer.iter:07d}"
        path = os.path.join(self._checkpointer.save_dir, f"{name}.pth")
        if self._checkpointer.get_checkpoint_file() != path:
            self._checkpointer.save(name, iteration=self.trainer.iter)
        self._saved_at = time.monotonic()
        if self._kept:
            for old in numbered_checkpoints(self._checkpointer.save_dir)[self._kept :]:
                os.unlink(old)
        return path


class BestCheckpoint:
    """Keeps ``model_best.pth``, the best by one metric, and counts the evaluations since.

    Detectron2's BestCheckpointer forgets the best value when a run is resumed, and makes its file the one that
    ``--resume`` takes. This one keeps a record in ``best_checkpoint.json``.

    Args:
        checkpointer: writes into the run's folder.
        metric: a key of the flattened results, higher is better.
        patience: evaluations in a row without a better value after which the run ends; 0: it never does.

    Attributes:
        since: iterations, counted from 0, that were evaluated since the best one.
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
        """Read the record of a run that is resumed at ``start_iter``; a new run has none."""
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
            results: flattened results of this evaluation.
            iteration: the last one, counted from 0.
        """
        value = results.get(self.metric, math.nan)
        better = math.isfinite(value) and value > self.value
        if better:
            if self._checkpointer.write("model_best", iteration=iteration) is None:
                return
            self.value, self.iteration, self.since = value, iteration, []
            _logger.info("best so far: %s %.3f at iteration %d", self.metric, value, iteration + 1)
        elif iteration != self.last:  # a finished run evaluates its last one again
            self.since.append(iteration)
        if self.iteration < 0:
            return  # there is no best yet
        record = {"file": "model_best.pth", "metric": self.metric, "value": self.value, "iteration": self.iteration}
        with atomic_write(self._record) as file:
            json.dump({**record, "since": self.since}, file)


class Evaluation(HookBase):
    """Evaluates every ``period`` iterations and after the last one, in all processes together.

    A run that is out of patience ends after the evaluated iteration, and is not continued.

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
            # JSON has no NaN, the value of classes and sizes without a box.
            finite = {name: value for name, value in results.items() if math.isfinite(value)}
            self.trainer.storage.put_scalars(**finite, smoothing_hint=False)
            self._best.update(finite, iteration)
        comm.synchronize()
        self._ended_by_patience = self._end_if_out_of_patience(iteration + 1)

    def _end_if_out_of_patience(self, done: int) -> bool:
        """If the main process is out of patience, end the run after ``done`` iterations, in all processes."""
        end = comm.all_gather(self._best.out_of_patience)[0] and done < self.trainer.max_iter
        if end and comm.is_main_process():
            _logger.warning(
                "early stop after iteration %d of %d: no better %s than %.3f, that of iteration %d (model_best.pth), "
                "in the last %d evaluations. --resume continues only with a larger --patience, or 0 for none",
                *(done, self.trainer.max_iter, self._best.metric, self._best.value, self._best.iteration + 1),
                len(self._best.since),
            )
        if end:
            self.trainer.max_iter = done
        return end

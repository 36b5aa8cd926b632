"""When checkpoints are written, and which stay."""

import logging
import os
import time

from detectron2.engine import HookBase

from fa_detectron.checkpoint import FeatureAlignCheckpointer
from fa_detectron.files import remove_unfinished

_logger = logging.getLogger(__name__)


class Checkpoints(HookBase):
    """Writes ``model_NNNNNNN.pth`` (the number of the last finished iteration, from 0), which can be resumed, and the
    weights alone at the end, ``model_final.pth``.

    Older numbered ones go only after the new one has been written, read back and found whole.

    Args:
        checkpointer: of the main process, whose hook this is. No other process takes part, so the clock of this one
            decides, and training does not depend on when a checkpoint is written.
        period: iterations between checkpoints; 0: none before the end.
        minutes: write one when the last is as old as this; 0: ``period`` alone counts.
        kept: how many numbered ones stay, at least 2; 0: all.
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
        """Write what a run leaves behind, after its last iteration."""
        self.save_final(self.trainer.iter)  # first: a run that has its last checkpoint is complete
        self.save()

    def _is_due(self, done: int) -> bool:
        if self._minutes > 0 and time.monotonic() - self._saved_at >= self._minutes * 60:
            return True
        return self._period > 0 and done % self._period == 0

    def save_final(self, iteration: int) -> None:
        """Write the weights alone, of the last iteration, counted from 0."""
        self._checkpointer.write("model_final", iteration=iteration)

    def save(self) -> str:
        """Write the state after the current iteration, if it is not the last one written; returns the path."""
        name = f"model_{self.trainer.iter:07d}"
        path = os.path.join(self._checkpointer.save_dir, f"{name}.pth")
        if self._checkpointer.get_checkpoint_file() != path:
            self._checkpointer.save(name, iteration=self.trainer.iter)
        self._saved_at = time.monotonic()
        if self._kept:
            for old in self._checkpointer.numbered()[self._kept :]:
                os.unlink(old)
        return path

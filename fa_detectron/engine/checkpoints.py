"""When checkpoints are written, and which stay."""

import logging
import os

from detectron2.engine import HookBase

from fa_detectron.checkpoint import FeatureAlignCheckpointer
from fa_detectron.files import remove_unfinished

_logger = logging.getLogger(__name__)


class Checkpoints(HookBase):
    """Writes ``model_NNNNNNN.pth`` (the number of the last finished iteration, from 0), ``model_final.pth`` at the end.

    Older numbered ones go only after the new one has been written, read back and found whole.

    Args:
        checkpointer: of the main process, whose hook this is.
        period: iterations between checkpoints.
        kept: how many numbered ones stay, at least 2; 0: all.
    """

    def __init__(self, checkpointer: FeatureAlignCheckpointer, period: int, kept: int) -> None:
        self._checkpointer, self._period, self._kept = checkpointer, period, kept

    def before_train(self) -> None:
        remove_unfinished(self._checkpointer.save_dir)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done >= self.trainer.max_iter:
            self._checkpointer.save("model_final", iteration=self.trainer.iter)
        elif self._period > 0 and done % self._period == 0:
            self.save()

    def save(self) -> str:
        """Write the state after the current iteration, if it is not the last one written; returns the path."""
        name = f"model_{self.trainer.iter:07d}"
        path = os.path.join(self._checkpointer.save_dir, f"{name}.pth")
        if self._checkpointer.get_checkpoint_file() != path:
            self._checkpointer.save(name, iteration=self.trainer.iter)
        if self._kept:
            for old in self._checkpointer.numbered()[self._kept :]:
                os.unlink(old)
        return path

"""A progress bar with the time left, on a terminal that has tqdm; elsewhere the log lines say it."""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

try:
    import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm
except ImportError:  # an extra; nothing but the bar depends on it
    tqdm = None


def show_bars() -> bool:
    """Whether this process draws bars: the main process, with tqdm, on a terminal."""
    return tqdm is not None and comm.is_main_process() and sys.stderr.isatty()


def _log_above_the_bar() -> AbstractContextManager:
    return logging_redirect_tqdm([logging.getLogger(name) for name in ("fa_detectron", "detectron2", "fvcore")])


class ProgressBar(HookBase):
    """A bar over the iterations of training; log lines are written above it."""

    def before_train(self) -> None:
        self._stack = ExitStack()
        self._stack.enter_context(_log_above_the_bar())
        self._bar = self._stack.enter_context(
            tqdm.tqdm(total=self.trainer.max_iter, initial=self.trainer.start_iter, desc="training", unit="it")
        )

    def after_step(self) -> None:
        self._bar.update()

    def after_train(self) -> None:
        self._stack.close()


class BarLoader:
    """A data loader of known length that draws a bar while it is walked through."""

    def __init__(self, loader: Iterable, description: str) -> None:
        self._loader, self._description = loader, description

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __iter__(self) -> Iterator:
        with _log_above_the_bar():
            yield from tqdm.tqdm(self._loader, desc=self._description, unit="image", leave=False)

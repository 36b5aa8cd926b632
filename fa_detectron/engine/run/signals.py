"""Ctrl-C, SIGTERM, SIGHUP: finish the current step, write a checkpoint, and exit with the signal's status."""

import logging
import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_logger = logging.getLogger(__name__)
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
STATUSES = tuple(128 + number for number in _SIGNALS)  # 130, 143 and 129, as a shell reports them
# A terminal, a launcher and a scheduler may all send the same request; a later signal is a second one.
_SAME_REQUEST = 1.0  # seconds


def handled_signals() -> tuple[int, ...]:
    """Signals that stop a run; without SIGHUP if nohup has it ignored."""
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    ignored = hangup is not None and signal.getsignal(hangup) == signal.SIG_IGN
    return tuple(number for number in _SIGNALS if not (ignored and number == hangup))


def leave_lost_terminal() -> None:
    """Redirect stdout and stderr to os.devnull if their terminal is gone (SIGHUP), where each write would fail."""
    for descriptor in (1, 2):
        try:
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                with open(os.devnull, "w") as nowhere:
                    os.dup2(nowhere.fileno(), descriptor)
        except OSError:  # closed
            continue


class Stopped(Exception):
    """The run ends early because of a signal.

    Args:
        number: the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopSignals:
    """While entered, records SIGINT, SIGTERM and SIGHUP instead of ending the process; a second, later one ends it.

    Attributes:
        received: number of the signal that this process received, 0: none.
        agreed: number of the signal for which all workers stop after this step, 0: none.
        saving: the last checkpoint is being written; further signals, such as a launcher's, are ignored.
    """

    def __init__(self) -> None:
        self.received = self.agreed = 0
        self.saving = False
        self._since, self._at_once, self._before = 0.0, False, {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there alone
            self._before = {number: signal.signal(number, self._handle) for number in handled_signals()}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        leave_lost_terminal()
        if self.saving:
            return
        if self.received:
            if time.monotonic() - self._since > _SAME_REQUEST:
                self.__exit__()
                raise KeyboardInterrupt
            return
        self.received, self._since = number, time.monotonic()
        if self._at_once:
            raise Stopped(number)
        name = signal.Signals(number).name
        _logger.warning("%s: stopping after this iteration, with a checkpoint; once more stops at once", name)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within this context, where no step is running, a signal raises :class:`Stopped` immediately."""
        self._at_once = True
        try:
            if self.received:
                raise Stopped(self.received)
            yield
        finally:
            self._at_once = False

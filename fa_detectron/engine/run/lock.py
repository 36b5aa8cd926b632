"""One run per folder: a lock that names its holder and does not outlive it.

The operating system releases the lock when the process ends in any way. Not every shared file system shows such locks
to other machines, so the holder also touches a record every few seconds: a record of another machine (or of the same
one before a restart) counts as long as it is being touched.
"""

import json
import os
import platform
import threading
import time
from contextlib import suppress
from datetime import datetime

from filelock import FileLock, Timeout

from fa_detectron.files import atomic_write

_BEAT = 10.0  # seconds between two touches
_SILENCE = 3.5 * _BEAT  # after which a holder on another machine is considered dead


def _this_machine() -> str:
    """This machine since its last start: kernel locks and process ids have a meaning within it only."""
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{platform.node()} {file.read().strip()}"
    return platform.node()


class RunLock:
    """Holds an existing folder for this process until :meth:`release`.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = FileLock(os.path.join(folder, ".run.lock"))
        self._record = os.path.join(folder, ".run.json")
        self._released: threading.Event | None = None

    def acquire(self) -> str:
        """Take the lock, if this process does not hold it already; returns an error message, "" on success.

        If another machine has left its record, waits up to half a minute to see whether it is still alive.
        """
        if self._released is not None:
            return ""
        free = self._take()
        holder = self._holder()
        if free is not False and holder:
            elsewhere = free is None or holder.get("machine") != _this_machine()
            if elsewhere and self._is_touched():
                self._lock.release()
                free = False
        if free is False:
            return self._refusal(holder)
        here = {"host": platform.node(), "pid": os.getpid(), "machine": _this_machine()}
        with atomic_write(self._record) as file:
            json.dump({**here, "since": datetime.now().isoformat(" ", "seconds")}, file)
        self._released = threading.Event()
        threading.Thread(target=_touch, args=(self._record, self._released), daemon=True).start()
        return ""

    def release(self) -> None:
        """Release the folder; does nothing if it is not held."""
        if self._released is None:
            return
        self._released.set()
        self._released = None
        with suppress(OSError):
            os.unlink(self._record)
        self._lock.release()

    def _take(self) -> bool | None:
        """Whether the system's lock was free; None if the file system has no locks."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        except (OSError, NotImplementedError):
            return None
        return True

    def _holder(self) -> dict[str, object]:
        try:
            with open(self._record, encoding="utf-8") as file:
                holder = json.load(file)
        except (OSError, ValueError):
            return {}
        return holder if isinstance(holder, dict) else {}

    def _is_touched(self) -> bool:
        first, end = self._touched_at(), time.monotonic() + _SILENCE
        while time.monotonic() < end:
            time.sleep(min(1.0, _SILENCE / 10))
            now = self._touched_at()
            if now != first:
                return now != 0  # else it was released meanwhile
        return False

    def _touched_at(self) -> int:
        try:
            with open(self._record, "rb") as file:  # on NFS an opened file is as the server has it
                return os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return 0

    def _refusal(self, holder: dict[str, object]) -> str:
        who = "another process"
        if holder:
            who = f"process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')},"
        return f"OUTPUT_DIR {self._folder} is in use: {who} trains there. Wait for it, stop it, or name another folder"


def _touch(path: str, released: threading.Event) -> None:
    while not released.wait(_BEAT):
        with suppress(OSError):
            os.utime(path)

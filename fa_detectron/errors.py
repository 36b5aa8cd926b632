"""Errors that a user can cause and repair."""

import errno
import logging
import sys
from collections.abc import Callable
from typing import Any

# Of the machine or of what was typed, not of this code.
_ENVIRONMENT = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "ENAMETOOLONG", "EMFILE", "ENFILE", "ELOOP", "EIO", "ESTALE", "EFBIG")
    if hasattr(errno, name)  # Windows lacks some
}
_REMEDY = {
    errno.EROFS: "; name a folder that can be written to",
    errno.ENAMETOOLONG: "; choose a shorter name",
    errno.EMFILE: "; allow more with: ulimit -n 4096",
}
# What ends a run: to its log.txt (open_run_folder adds the handler), but not to the terminal, which has the error line.
failures = logging.getLogger("fa_detectron.failures")
failures.propagate = False
failures.addHandler(logging.NullHandler())


class UserError(Exception):
    """Wrong input: a file, a config key, an argument or a data set.

    The message names what is wrong and what to do about it. Entry points print it as ``error: ...`` without a
    traceback and exit with status 2.
    """


class UnreadableImage(UserError):
    """A file that is no image, a damaged one, or one whose pixels have no known meaning."""


class SharedError(UserError):
    """A user's error that all workers of a run raise alike; the main process alone reports it."""


def run_command(command: Callable[[], Any]) -> Any:
    """Run an entry point: a user's error becomes one line on stderr and exit status 2; defects keep their traceback.

    Args:
        command: the work, without arguments.

    Returns:
        What ``command`` returns.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a class name that the terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        return command()
    except UserError as error:
        # A data loader's worker passes its exceptions on as text, traceback first.
        message = str(error).rpartition("fa_detectron.errors.UserError: ")[2].strip()
    except OSError as error:
        absent = isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError))
        if error.errno not in _ENVIRONMENT and not (absent and error.filename is not None):
            failures.exception("")
            raise
        message = f"{_shortened(error.filename)}: {error.strerror}{_REMEDY.get(error.errno, '')}"
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception:
        failures.exception("")
        raise
    failures.error(message)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _shortened(name: str | bytes | None) -> str:
    text = str(name or "a file")
    return text if len(text) <= 200 else f"{text[:100]}...{text[-80:]}"

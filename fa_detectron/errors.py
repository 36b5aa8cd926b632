"""Errors that a user can cause and repair."""

import errno
import sys
from collections.abc import Callable
from typing import Any


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
    try:
        return command()
    except UserError as error:
        # A data loader's worker passes its exceptions on as text, traceback first.
        message = str(error).rpartition("fa_detectron.errors.UserError: ")[2].strip()
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        if error.filename is None:
            raise
        message = f"{error.filename}: {error.strerror}"
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = f"{error.filename or 'a file'} cannot be written: {error.strerror}"
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)

"""Errors that a user can cause and repair."""


class UserError(Exception):
    """Wrong input: a file, a config key, an argument or a data set.

    The message names what is wrong and what to do about it. Entry points print it as ``error: ...`` without a
    traceback and exit with status 2.
    """

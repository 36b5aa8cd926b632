"""The command line, in this process."""

from fa_detectron.__main__ import main


def call(verb: str, *words: object) -> int:
    """The exit status of `fa-detectron VERB WORDS...`."""
    try:
        main([verb, *map(str, words)])
    except SystemExit as end:
        return end.code or 0
    raise AssertionError("main exits")

#!/usr/bin/env python
"""`fa-detectron train`; with --eval-only, evaluation."""

import sys

from fa_detectron.__main__ import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])

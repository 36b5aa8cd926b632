#!/usr/bin/env python
"""`fa-detectron explain`."""

import sys

from fa_detectron.__main__ import main

if __name__ == "__main__":
    main(["explain", *sys.argv[1:]])

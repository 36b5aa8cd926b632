#!/usr/bin/env python
"""`fa-detectron export`."""

import sys

from fa_detectron.__main__ import main

if __name__ == "__main__":
    main(["export", *sys.argv[1:]])

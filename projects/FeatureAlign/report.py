#!/usr/bin/env python
"""`fa-detectron report`."""

import sys

from fa_detectron.__main__ import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])

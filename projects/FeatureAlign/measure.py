#!/usr/bin/env python
"""`fa-detectron measure`."""

import sys

from fa_detectron.__main__ import main

if __name__ == "__main__":
    main(["measure", *sys.argv[1:]])

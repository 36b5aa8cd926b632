#!/usr/bin/env python
"""`fa-detectron predict`."""

import sys

from fa_detectron.__main__ import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])

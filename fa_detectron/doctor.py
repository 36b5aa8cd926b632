"""`python -m fa_detectron.doctor` is `fa-detectron doctor`."""

import sys

from fa_detectron.__main__ import main

if __name__ == "__main__":
    main(["doctor", *sys.argv[1:]])

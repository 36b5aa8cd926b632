"""`python -m fa_detectron.check_data` is `fa-detectron check-data`."""

import sys

from fa_detectron.__main__ import main

if __name__ == "__main__":
    main(["check-data", *sys.argv[1:]])

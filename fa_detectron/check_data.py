"""`python -m fa_detectron.check_data`, see fa_detectron/apps/check_data.py."""

import sys

from fa_detectron.apps.check_data import main
from fa_detectron.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))

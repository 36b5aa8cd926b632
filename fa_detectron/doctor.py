"""`python -m fa_detectron.doctor`, see fa_detectron/apps/doctor.py."""

import sys

from fa_detectron.apps.doctor import main

if __name__ == "__main__":
    sys.exit(main())

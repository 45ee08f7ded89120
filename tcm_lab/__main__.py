"""``python -m tcm_lab`` is ``tcm-lab``."""

import sys

from tcm_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())

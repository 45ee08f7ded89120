"""``python -m tcm_lab.study`` is ``tcm-lab study``."""

import sys

from tcm_lab.cli import main

if __name__ == "__main__":
    sys.exit(main(["study", *sys.argv[1:]]))

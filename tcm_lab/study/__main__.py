"""``python -m tcm_lab.study``, the same as ``tcm-lab study``."""

import sys

from tcm_lab.cli import main

if __name__ == "__main__":
    sys.exit(main(["study", *sys.argv[1:]]))

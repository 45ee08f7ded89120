"""``python -m tcm_lab.study`` is ``tcm-lab study``."""

import sys

from tcm_lab.errors import LabError
from tcm_lab.study.command import main


def guarded() -> int:
    """Run the command; a mistake that the user can mend is one line and exit code 2."""
    try:
        return main()
    except LabError as error:
        print(f"tcm-lab: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tcm-lab: interrupted; call again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(guarded())

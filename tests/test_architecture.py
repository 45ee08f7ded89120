import subprocess
import sys
from pathlib import Path

from importlinter.api import read_configuration

import tcm_lab

ROOT = Path(__file__).parent.parent

#: What takes long to import, or what an installation may do without until it is needed.
HEAVY = ("compressai", "pandas", "seaborn", "matplotlib", "optuna", "skimage", "lightning", "scipy")


def test_a_room_imports_only_from_the_rooms_above_it() -> None:
    program = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_room_has_its_place_in_the_order() -> None:
    package = Path(tcm_lab.__file__).parent
    rooms = {
        f"tcm_lab.{path.stem}"
        for path in package.iterdir()
        if (path.is_dir() and list(path.glob("*.py"))) or path.suffix == ".py"
    } - {"tcm_lab.__init__", "tcm_lab.__main__"}
    (contract,) = read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]
    assert rooms <= set(contract["layers"])


def test_importing_configurations_is_light() -> None:
    program = (
        "import sys, tcm_lab, tcm_lab.blocks, tcm_lab.codec\n"
        "tcm_lab.load_config('tcm-nano')\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"

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


def test_what_compressai_imports_and_nobody_needs_is_left_out_and_stays_importable() -> None:
    program = (
        "import sys, tcm_lab\n"
        "tcm_lab.build('tcm-nano')\n"
        "names = ('torchvision', 'torch_geometric', 'torch._dynamo', 'scipy.stats')\n"
        "assert [name for name in names if name in sys.modules] == []\n"
        "import compressai, scipy.stats\n"
        "assert abs(scipy.stats.norm.ppf(0.975) - 1.959964) < 1e-6\n"
        "compressai.transforms.RandomSample(num=3)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert "ImportError: RandomSample needs torch_geometric" in done.stderr
    assert "AssertionError" not in done.stderr

"""Build the wheel, install it outside this folder, and run every command with ``smoke.py``.

The new environment sees the libraries of the current one, so installing takes seconds, but it sees
neither this project's folder nor an editable installation of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
LARGEST_MB = 15
NEEDED = ("weights/tcm-nano/model.safetensors", "weights/tcm-nano/README.md", "py.typed")


def build(kind: str, folder: Path) -> Path:
    """Return the built wheel or sdist."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    (built,) = folder.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    print(f"{built.name}: {built.stat().st_size / 1e6:.1f} MB", flush=True)
    return built


def tracked(folder: str) -> list[str]:
    """Return the files of a folder that git tracks, or none outside a checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", folder], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    return [name for name in listed if name and (ROOT / name).exists()]


def check_sdist(sdist: Path) -> None:
    """Check that the sdist contains every tracked file: packagers get nothing else."""
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    missing = [name for name in ("PKG-INFO", "LICENSE", *tracked(".")) if name not in held]
    assert not missing, f"{sdist.name} lacks {missing}"


def check(wheel: Path) -> None:
    """Check that the wheel contains every file of the package and respects the size limit."""
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    missing = [name for name in NEEDED if f"tcm_lab/{name}" not in held]
    missing += [name for name in tracked("tcm_lab") if name not in held]
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in held):
        missing.append("LICENSE")
    assert not missing, f"{wheel.name} lacks {missing}"
    assert wheel.stat().st_size < LARGEST_MB * 1e6, f"{wheel.name} is over {LARGEST_MB} MB"


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel into a new environment and return its Python."""
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    paths = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
    python = Path(paths["scripts"]) / Path(sys.executable).name
    # In a folder that a .pth file adds to the path, .pth files are not read; editable
    # installations consist of such files.
    libraries = "\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    Path(paths["purelib"], "libraries.pth").write_text(f"{libraries}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    subprocess.run([*pip, "--no-index", str(wheel)], check=True)
    return python


def main() -> None:
    """Build and check both distributions, install the wheel, and run every command."""
    before = time.perf_counter()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        check_sdist(build("sdist", folder / "sdist"))
        wheel = build("wheel", folder / "wheel")
        check(wheel)
        python = install(wheel, folder / "environment")
        empty = folder / "empty"
        empty.mkdir()
        shutil.copy(Path(__file__).with_name("smoke.py"), folder)
        # -I keeps the folders of this project off the path. The jobs are too small for a second
        # thread, and threads should not spin while they wait.
        alone = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
        subprocess.run(
            [python, "-I", folder / "smoke.py"], check=True, cwd=empty, env={**os.environ, **alone}
        )
    print(f"The wheel runs every command: {time.perf_counter() - before:.0f} s.")


if __name__ == "__main__":
    main()

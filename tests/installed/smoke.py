"""Run every command of an installed ``tcm-lab`` once in an empty folder.

``nox -s wheel`` runs this file with the Python of the environment that has the wheel installed. It
does not need pytest.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import tcm_lab
from tcm_lab.cli import main
from tcm_lab.cli.app import COMMANDS

SPACE = """\
name: small
base: tcm-nano
axes: {split: {path: "g_*.split", choices: [0.25, 0.5]}}
objectives: [lagrangian_percent, kmacs_per_px]
mode: ablation
budget: {recipe: scratch, steps: 1, seeds: 2, rate_levels: 2, changes: {crop: 64, batch: 1}}
"""

MORE = SPACE.replace("0.25, 0.5", "0, 0.25, 0.5, 1").replace("seeds: 2, ", "")
PLAN = "{space: more.yaml, estimators: [train]}"

COMMAND_LINES = """
models "tcm-*" --trained
card tcm-nano
blocks
complexity tcm-nano tcm-small --size 256x256 --format json --out costs.json
table costs.json --detail parts
plot parts costs.json --out parts
time tcm-nano --size 64x64 --repeats 2 --seconds 0 --warm-up 1
train tcm-nano --recipe scratch --steps 3 --rate-levels 2 --batch 1 --crop 64 --data images \
    --eval-data images --out runs/nano
evaluate runs/nano/model.safetensors tcm-nano --data images --rates 0 1 --format json --out rd.json
plot rd rd.json --out rd
analyze erf tcm-nano --data images --side 64 --probes 2
analyze attention tcm-nano --data images
analyze latents tcm-nano --data images
analyze shortcut runs/nano/model.safetensors --data images
encode images/waves.png waves.tcm --checkpoint tcm-nano --rate 1
decode waves.tcm decoded.png --checkpoint tcm-nano
export runs/nano/model.safetensors half.safetensors --half
study schema
study --space configs/split.yaml --dry-run
study run --space small.yaml --data images --eval-data images --workers 1 --out runs/small
study report runs/small
study compare runs/small runs/small
study init --storage sqlite:///study.db
agreement plan.yaml --data images --eval-data images --workers 1 --out runs/plan
noise runs/small
dashboard --help
"""
"""One small job per command; a server command only shows its help."""


def leaves(level: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield the full name of every command."""
    for name, command in level.items():
        if isinstance(command, Mapping):
            yield from leaves(command, f"{above}{name} ")
        else:
            yield f"{above}{name}"


def run(line: str) -> None:
    """Run one command line; show its output if it fails."""
    printed = io.StringIO()
    before = time.perf_counter()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            code = main(shlex.split(line))
        except SystemExit as end:  # of --help
            code = end.code or 0
    print(f"{time.perf_counter() - before:5.1f} s  tcm-lab {line}", flush=True)
    if code != 0 or not printed.getvalue().strip():
        raise SystemExit(f"{printed.getvalue()}\nexit code {code}: tcm-lab {line}")


def smoke() -> None:
    """Run all command lines."""
    home = Path(tcm_lab.__file__).parent
    assert home.is_relative_to(sys.prefix), f"{home} is not the installed wheel"
    assert not [*Path().iterdir()], "this folder is not empty"
    Path("images").mkdir()
    rows, columns = np.mgrid[0:128, 0:160]
    pixels = np.stack([rows, columns, (rows * columns) // 80], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save("images/waves.png")
    Image.fromarray(pixels[:64, :96, ::-1]).save("images/others.png")
    Path("small.yaml").write_text(SPACE, encoding="utf-8")
    Path("more.yaml").write_text(MORE, encoding="utf-8")
    Path("plan.yaml").write_text(PLAN, encoding="utf-8")

    lines = COMMAND_LINES.strip().replace("\\\n", " ").splitlines()
    missing = [name for name in leaves(COMMANDS) if not any(x.startswith(name) for x in lines)]
    assert not missing, f"no line runs {missing}"
    script = Path(sys.executable).with_name("tcm-lab")
    started = subprocess.run([script, "--version"], check=True, capture_output=True, text=True)
    assert started.stdout == f"tcm-lab {tcm_lab.__version__}\n", started.stdout
    module = [sys.executable, "-I", "-m", "tcm_lab.study", "--help"]
    assert subprocess.run(module, check=True, capture_output=True).stdout
    for line in lines:
        run(line)
    for made in ("parts.svg", "rd.png", "decoded.png", "runs/small/report.html"):
        assert Path(made).stat().st_size > 1000, made


if __name__ == "__main__":
    smoke()

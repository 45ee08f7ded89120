"""Every command works beside packages that import torchvision, whichever is imported first."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

OTHERS = ("compressai", "torchvision", "timm", "torch_geometric", "torchmetrics", "lightning")

_OTHERS_IMPORTED = f"""
import importlib, warnings
warnings.simplefilter("ignore")
for name in {OTHERS}:
    try:
        importlib.import_module(name)
    except (ImportError, RuntimeError, AttributeError) as error:
        assert allowed_to_fail, f"{{name}}: {{error!r}}"
        print(name, "cannot be imported on its own here:", error)
"""

_COMMANDS = """
from tcm_lab.cli import main
commands = [
    ["models", "tcm-*"],
    ["blocks"],
    ["complexity", "tcm-nano", "--size", "64x64"],
    ["complexity", "tcm-nano", "--size", "64x64", "--check", "--set", "?_?.depth=1"],
    ["complexity", "compressai/mbt2018", "--size", "64x64", "--format", "json", "--out", "a.json"],
    ["table", "a.json"],
    ["time", "tcm-nano", "--size", "64x64", "--repeats", "1", "--seconds", "0", "--warm-up", "1"],
    ["train", "tcm-nano", "--recipe", "scratch", "--steps", "1", "--batch", "1", "--crop", "64",
     "--lambdas", "0.01", "--data", "images", "--out", "run", "--eval-data", "small"],
    ["evaluate", "run/model.safetensors", "--data", "small"],
    ["encode", "small/waves.png", "a.tcm", "--checkpoint", "run/model.safetensors"],
    ["decode", "a.tcm", "a.png", "--checkpoint", "run/model.safetensors"],
    ["analyze", "latents", "run/model.safetensors", "--data", "small", "--out", "latents"],
    ["study", "--space", "configs/split.yaml", "--dry-run", "--data", "images",
     "--eval-data", "images"],
]
for command in commands:
    assert main(command) == 0, command
"""


@pytest.mark.parametrize("first", ["tcm_lab", "the others"])
def test_every_command_works_in_both_import_orders(first: str, tmp_path: Path) -> None:
    missing = [name for name in OTHERS if find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    for folder in ("images", "small"):
        (tmp_path / folder).mkdir()
    rows, columns = np.mgrid[0:272, 0:272]
    waves = np.stack([rows, columns, (rows * columns) // 300], axis=-1).astype(np.uint8)
    Image.fromarray(waves).save(tmp_path / "images" / "waves.png")
    Image.fromarray(waves[:70, :90]).save(tmp_path / "small" / "waves.png")
    if first == "tcm_lab":  # then the others must all be importable after us
        program = _COMMANDS + "allowed_to_fail = False\n" + _OTHERS_IMPORTED
    else:  # where torchvision's extension does not fit this torch, some fail without us
        program = "allowed_to_fail = True\n" + _OTHERS_IMPORTED + _COMMANDS
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr

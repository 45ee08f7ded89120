"""The receptive fields of TCM and its successors: what is measured, and what is trained once."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from scripts import script

from tcm_lab import load_config
from tcm_lab.training import get_recipe

SCRIPT = Path(__file__).parents[2] / "studies" / "successors" / "receptive.py"
FORMS = ("convolution", "transformer")


@pytest.fixture
def receptive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script with little to do, in a folder of its own."""
    module, rng = script(SCRIPT), np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name in "ab":
        pixels = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
    recipe = get_recipe("study").changed(steps=2, crop=128, start="none", linear_steps=0)
    monkeypatch.setattr(module, "get_recipe", lambda name: recipe.changed(name=name))
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(module, "FORMS", {form: module.FORMS[form] for form in FORMS})
    monkeypatch.setattr(module, "SIDE_PX", 128)
    monkeypatch.setattr(module, "PROBES", 2)
    images, out = str(tmp_path / "images"), str(tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["receptive.py", images, images, "--out", out])
    return module


def test_the_forms_differ_in_what_their_names_say() -> None:
    nano = load_config("tcm-nano")
    configs = {form: nano.override(dict(change)) for form, change in script(SCRIPT).FORMS.items()}
    assert len({config.fingerprint for config in configs.values()}) == 6
    assert {config.entropy_model for config in configs.values()} == {nano.entropy_model}
    for form, name in (("DCAE", "dcae-nano"), ("MLIC++", "mlicpp-nano"), ("HPCM", "hpcm-nano")):
        config, successor = configs[f"{form}'s transforms"], load_config(name)
        assert (config.g_a, config.g_s) == (successor.g_a, successor.g_s)


def test_the_table_and_the_figure_are_of_codecs_that_are_trained_once(
    receptive: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receptive.main()
    written = {path.name: path.read_bytes() for path in tmp_path.glob("receptive-fields.*")}
    assert {name.rsplit(".")[-1] for name in written} == {"csv", "md", "tex", "png", "svg"}
    with (tmp_path / "receptive-fields.csv").open(encoding="utf-8") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    assert tuple(rows) == FORMS
    beyond = {form: float(row["beyond_percent"]) for form, row in rows.items()}
    assert beyond["convolution"] < 1e-5 < 1e-4 < beyond["transformer"]  # of rounding, of attention
    monkeypatch.setattr(receptive, "train", lambda *_, **__: pytest.fail("trained again"))
    for name in written:
        (tmp_path / name).unlink()
    receptive.main()
    assert written == {path.name: path.read_bytes() for path in tmp_path.glob("receptive-fields.*")}

"""What a study's page says is what its records hold."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from tcm_lab.codec import load_checkpoint

STUDIES = Path(__file__).parents[2] / "studies"
MODELS = sorted(path.parent for path in STUDIES.glob("models/*/training.json"))


def test_the_page_of_the_split_study_holds_its_table() -> None:
    page = (STUDIES / "split" / "README.md").read_text()
    for line in (STUDIES / "split" / "table.md").read_text().splitlines():
        if line.startswith("|"):
            assert line in page


def test_the_split_studys_claims_are_figures_of_its_table() -> None:
    page = (STUDIES / "split" / "README.md").read_text().replace("\N{MINUS SIGN}", "-")
    result = page[page.index("**Result.**") : page.index("**Limits.**")]
    table = (STUDIES / "split" / "table.csv").read_text()
    figures = [
        float(cell) for row in csv.reader(table.splitlines()) for cell in row if number(cell)
    ]
    claimed = re.findall(r"[+-]\d+\.\d\d", result)
    assert len(claimed) >= 9
    for claim in claimed:
        assert any(abs(float(claim) - figure) < 0.005 for figure in figures), claim


def test_every_training_of_the_split_study_has_a_record_of_its_own() -> None:
    records = [json.loads(path.read_text()) for path in (STUDIES / "split/records").glob("*.json")]
    done = {(record["label"], record["seed"]) for record in records if record["steps"] == 400}
    assert done == {
        (f"split {share:g}", seed) for share in (0, 0.25, 0.5, 0.75, 1) for seed in range(3)
    }


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_a_trained_model_is_small_loads_and_is_the_one_on_the_page(folder: Path) -> None:
    weights = folder / "model.safetensors"
    assert weights.stat().st_size < 4e6
    training = json.loads((folder / "training.json").read_text())
    config = load_checkpoint(weights).config
    assert config.model_dump(mode="json") == training["model"]
    row = f"| {folder.name} | {training['loss']:.3f} | {training['bpp']:.4f} | "
    assert row + f"{training['psnr_db']:.2f} |" in (STUDIES / "models/README.md").read_text()


def test_the_family_is_whole() -> None:
    assert [folder.name for folder in MODELS] == [
        "tcm-nano",
        "tcm-nano-conv-only",
        "tcm-nano-no-swatten",
        "tcm-nano-transformer-only",
    ]


def number(cell: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", cell) is not None

"""The script that spends a GPU's minutes, tried on the CPU."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tcm_lab.complexity import TimingComparison, TimingRecord

SCRIPT = Path(__file__).parents[1] / "gpu" / "run_all.py"
TABLES = Path(__file__).parents[2] / "studies" / "gpu" / "make.py"
SPACE = """
name: two
base: tcm-nano
mode: ablation
axes: {depth: {path: "?_?.depth", choices: [1, 0]}}
size: [64, 64]
budget: {recipe: scratch, steps: 2, rate_levels: 2, changes: {batch: 1}}
"""


def test_every_step_leaves_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / "noise.png")
    words = ["--device", "cpu", "--minutes", "20", "--space", str(tmp_path / "space.yaml")]
    words += ["--eval-data", str(tmp_path / "images")]
    out = tmp_path / "out"
    run = subprocess.run(
        [sys.executable, str(SCRIPT), str(out), *words], capture_output=True, text=True, check=False
    )
    steps = json.loads((out / "steps.json").read_text())
    assert run.returncode == 0, steps
    assert {name: step["status"] for name, step in steps.items()} == dict.fromkeys(
        ("tests", "times", "training", "study"), 0
    )
    assert " passed" in (out / "tests.log").read_text().splitlines()[-1]

    first, *rest = map(json.loads, (out / "times.jsonl").read_text().splitlines())
    plain, ours = TimingComparison.model_validate(first["comparison"]).records
    assert (plain.model, ours.model) == ("Plain", "tcm-small")
    records = [TimingRecord.model_validate(each["record"]) for each in rest]
    assert [record.options.precision for record in records] == ["float32", "bfloat16"]

    paces = list(map(json.loads, (out / "training.jsonl").read_text().splitlines()))
    assert [(each["precision"], len(each["each"])) for each in paces] == [
        ("32-true", 1),
        ("bf16-mixed", 2),
    ]
    assert all(each["crops_per_s"] > 0 for each in paces)
    trained = list(map(json.loads, (out / "records.jsonl").read_text().splitlines()))
    assert len(trained) == 3
    assert all(each["state"] == "complete" for each in trained)

    tables = tmp_path / "tables"
    subprocess.run([sys.executable, str(TABLES), str(out), "--out", str(tables)], check=True)
    (nano,) = read_csv(tables / "coding-128x128.csv")
    for record in records:
        for scope, timing in (("encode", record.encode), ("decode", record.decode)):
            shown = float(nano[f"{scope} {record.options.precision}"])
            assert shown == pytest.approx(timing.wall.median_ms, rel=1e-6)
    baseline = read_csv(tables / "baseline-tcm-small.csv")
    assert [row["model"] for row in baseline] == ["Plain", "tcm-small"]
    stages = read_csv(tables / "stages-128x128.csv")
    whole = next(row for row in stages if row["stage"] == "whole")
    parts = sum(float(row["encode_ms"] or 0) for row in stages if row is not whole)
    assert parts == pytest.approx(float(whole["encode_ms"]), rel=0.2)  # medians of two runs
    rows = {row["precision"]: row for row in read_csv(tables / "training.csv")}
    for pace in paces:
        shown = float(rows[pace["precision"]][f"crops_per_s {pace['side_by_side']}"])
        assert shown == pytest.approx(pace["crops_per_s"], rel=1e-6)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return a table's rows."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))

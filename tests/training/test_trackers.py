"""Trackers hold the same curves as the log, in the stores that their own libraries read back."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tcm_lab.errors import LabError
from tcm_lab.training import TrackedRun, open_trackers

SCRIPT = Path(__file__).with_name("run_tracked.py")
#: Whose settings in the environment of the tests change nothing here.
LIBRARIES = ("MLFLOW", "WANDB", "TRACKIO")


@pytest.mark.parametrize("name", ["mlflow", "wandb", "trackio"])
def test_a_tracker_holds_what_the_log_holds_also_after_a_resumed_training(
    tmp_path: Path, name: str
) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    places = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "WANDB_SILENT": "true",
    }
    others = {k: v for k, v in os.environ.items() if k.split("_")[0] not in LIBRARIES}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), name, str(tmp_path)],
        capture_output=True, text=True, env={**others, **places}, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    curves = json.loads(done.stdout.splitlines()[-1])
    with (tmp_path / "run" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 4
    assert set(curves) == set(rows[0]) - {"step"}
    for metric, curve in curves.items():
        expected = {row["step"]: pytest.approx(float(row[metric]), rel=1e-5) for row in rows}
        assert curve == expected, metric


def test_an_unknown_tracker_and_a_missing_library_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LabError, match="Did you mean mlflow"):
        open_trackers(["mlflo"])
    monkeypatch.setitem(sys.modules, "wandb", None)
    (tracker,) = open_trackers(["wandb", "wandb"])
    with pytest.raises(LabError, match=r"pip install \"tcm-lab\[wandb\]\""):
        tracker.begin(TrackedRun("run", tmp_path, {}, 0))

"""Trackers hold the same curves as the log, in the stores that their own libraries read back."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
from stand_in import RandomCrops, TinyCodec

from tcm_lab.errors import LabError
from tcm_lab.training import Recipe, TrackedRun, open_trackers, train
from tcm_lab.training.loop import TrainingLoop

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


class Failing:
    """A tracker whose server is gone, at first or in between."""

    def __init__(self, at: str) -> None:
        self.at = at
        self.seen: list[str] = []

    def _call(self, name: str) -> None:
        self.seen.append(name)
        if name == self.at:
            raise ConnectionError("no route to host")

    def begin(self, run: TrackedRun) -> None:
        self._call("begin")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._call(f"log {step}")

    def end(self) -> None:
        self._call("end")


RECIPE = Recipe(steps=40, batch=1, crop=16, lambdas=(0.01,))


@pytest.mark.parametrize(
    ("at", "seen"),
    [
        ("log 20", ["begin", "log 10", "log 20"]),
        ("end", ["begin", *(f"log {step}" for step in (10, 20, 30, 40)), "end"]),
    ],
)
def test_a_tracker_that_fails_costs_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, at: str, seen: list[str]
) -> None:
    failing, other = Failing(at), Failing("never")
    train(
        TinyCodec(), RECIPE, RandomCrops(), directory=tmp_path, accelerator="cpu",
        trackers=[failing, other],
    )  # fmt: skip
    assert failing.seen == seen
    assert other.seen == ["begin", *(f"log {step}" for step in (10, 20, 30, 40)), "end"]
    assert caplog.text.count("tracker Failing: failed and receives no more metrics (no route") == 1
    assert (tmp_path / "model.safetensors").is_file()


def test_a_tracker_that_cannot_begin_is_named_and_the_others_are_ended(tmp_path: Path) -> None:
    first = Failing("never")
    with pytest.raises(LabError, match=r"Failing: cannot begin its run \(no route"):
        train(
            TinyCodec(), RECIPE, RandomCrops(), directory=tmp_path, accelerator="cpu",
            trackers=[first, Failing("begin")],
        )  # fmt: skip
    assert first.seen == ["begin", "end"]


def test_a_broken_tensorboard_costs_no_training_unless_it_was_requested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: ModuleSpec(name, None))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", ModuleType("without a writer"))
    kept, requested = tmp_path / "kept", open_trackers(["tensorboard"])
    train(TinyCodec(), RECIPE, RandomCrops(), directory=kept, accelerator="cpu")
    assert (kept / "model.safetensors").is_file()
    assert caplog.text.count("tracker TensorBoard: failed and receives no more metrics") == 1
    with pytest.raises(LabError, match="tracker TensorBoard: cannot begin its run"):
        train(
            TinyCodec(), RECIPE, RandomCrops(), directory=tmp_path / "refused", accelerator="cpu",
            trackers=requested,
        )  # fmt: skip


def test_trackers_without_a_folder_are_refused() -> None:
    with pytest.raises(LabError, match="trackers: give a directory"):
        train(TinyCodec(), RECIPE, RandomCrops(), accelerator="cpu", trackers=[Failing("never")])


def test_a_missing_library_is_named_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[object] = []  # the start, whose linear phase may take minutes
    monkeypatch.setattr(TrainingLoop, "begin", lambda loop, **_: begun.append(loop))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(LabError, match=r"pip install \"tcm-lab\[wandb\]\""):
        train(
            TinyCodec(), RECIPE, RandomCrops(), directory=tmp_path, accelerator="cpu",
            trackers=open_trackers(["wandb"]),
        )  # fmt: skip
    assert begun == []

"""The real thing, as small as it goes: codecs that are trained and images that are coded."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from real import make_folder

from tcm_lab.cli import main
from tcm_lab.codec import build, load_checkpoint, load_config
from tcm_lab.complexity import measure_complexity
from tcm_lab.data import open_images
from tcm_lab.errors import ConfigError
from tcm_lab.evaluation import RdRecord, code_image, evaluate
from tcm_lab.study.context import StudyData
from tcm_lab.study.estimators import Task
from tcm_lab.study.result import open_result
from tcm_lab.study.space import load_space
from tcm_lab.study.trainer import CodecTrainer
from tcm_lab.study.variants import Variants

SPACE = """
name: real
base: tiny.yaml
axes:
  split: {path: "g_*.split", choices: [0.0, 0.5]}
sampler: grid
size: [64, 64]
budget: {recipe: scratch, steps: 20, rate_levels: 2, changes: {batch: 2}}
"""


TINY = """
base: tcm-nano
name: tiny
override:
  g_*.depth: 1
  h_*.depth: 1
  entropy_model.slices: 2
  entropy_model.attention: {type: none}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_folder(tmp_path_factory.mktemp("real"), TINY)
    (folder / "space.yaml").write_text(SPACE)
    return folder


DEADLINE_S = 900.0  # which only what hangs reaches, however busy the machine is
WORDS = ("--space", "space.yaml", "--data", "train", "--eval-data", "eval", "--workers", "1")


@pytest.fixture
def begin(folder: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start the study in a process of its own, which does not outlive the test."""
    begun: list[subprocess.Popen[str]] = []

    def call() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tcm_lab.study", *WORDS],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        begun.append(process)
        return process

    yield call
    for process in begun:
        with process:
            process.kill()


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """Return the next line that has these words; a process that ends without one fails the test."""
    assert process.stdout is not None
    assert process.stderr is not None
    deadline = threading.Timer(DEADLINE_S, process.kill)
    deadline.start()
    try:
        line = next((line for line in process.stdout if words in line), None)
    finally:
        deadline.cancel()
    assert line is not None, f"no {words!r} of: {process.stderr.read()}"
    return line


@pytest.mark.usefixtures("one_thread")
def test_a_study_that_is_interrupted_and_killed_ends_with_every_variant_measured(
    folder: Path,
    begin: Callable[[], subprocess.Popen[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = begin()
    assert "Study real" in read_until(first, "")
    spent = psutil.Process(first.pid).cpu_times()
    assert spent.user + spent.system < 20  # whatever else the machine does meanwhile
    read_until(first, "training")
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=DEADLINE_S)
    assert first.returncode == 130, errors
    assert errors.strip().endswith("interrupted; rerun the command to resume")

    second = begin()
    read_until(second, "split 0.5: done")
    second.kill()
    second.communicate()

    third = begin()
    told, errors = third.communicate(timeout=DEADLINE_S)
    assert third.returncode == 0, errors
    assert "resuming after 1 of 2" in told
    assert "split 0: done" in told
    assert "split 0.5: training" not in told
    assert "report.html" in told
    out = folder / "runs" / "real"
    for name in ("table.md", "table.csv", "table.tex", "pareto.png", "rd.svg", "report.html"):
        assert (out / name).stat().st_size > 0
    rows = list(csv.DictReader(io.StringIO((out / "table.csv").read_text())))
    assert len(rows) == 2

    result = open_result(out)
    images = open_images(folder / "eval", "eval")
    for record in result.records:
        codec = load_checkpoint(out / "trials" / record.identity / "model.safetensors")
        assert codec.config.fingerprint == record.fingerprint
        again = evaluate(codec, images)
        assert again.bpp == record.rd.bpp
        assert again.psnr_db == pytest.approx(record.rd.psnr_db, abs=1e-4)
        assert record.training is not None
        assert record.training.steps == 20
        middle = record.rd.points[1]
        expected = code_image(codec, images[0], middle.rate).x_hat[0].permute(1, 2, 0).numpy()
        shown = out / "decoded" / "0.png" / f"{record.identity}.png"
        if shown.exists():  # of the baseline and the front
            np.testing.assert_array_equal(np.asarray(Image.open(shown)), expected)
            bpp, db = middle.images[0].bpp, middle.images[0].psnr_db
            assert f'data-note="{bpp:.3f} bpp, {db:.2f} dB"' in (out / "report.html").read_text()
    np.testing.assert_array_equal(
        np.asarray(Image.open(out / "decoded" / "0.png" / "original.png")), images.decode(0)
    )
    assert len([*(out / "decoded").glob("*/*.png")]) >= 4  # of two images, baseline included

    changed = folder / "space.yaml"
    changed.write_text(SPACE.replace("0.0, 0.5", "0.0, 0.5, 1.0"))
    capsys.readouterr()
    assert say(folder) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("tcm-lab: error: runs/real: holds a study of another space")
    assert errors.count("\n") == 1
    changed.write_text(SPACE)


def say(folder: Path, *options: str) -> int:
    """Run the command in this process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        return main(["study", *WORDS, *options])


def test_a_dry_run_lists_variants_with_costs_and_what_drops_them_and_writes_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say(folder, "--estimate-time", "--out", str(tmp_path / "out")) == 0
    told = capsys.readouterr().out
    config = load_config(folder / "tiny.yaml").override({"rate_levels": 2})
    parameters = sum(p.numel() for p in build(config).parameters())
    assert "2 combinations of 1 axis" in told
    assert f"{parameters / 1e6:.3f}" in told
    assert ". 2 can be built." in told
    assert "2 trainings of 20 steps" in told
    assert "Estimated time: about" in told
    assert "Nothing was trained." in told
    assert list(tmp_path.iterdir()) == []

    text = SPACE.replace("tiny.yaml", str(folder / "tiny.yaml")).replace(
        "[0.0, 0.5]", "[0, 0.5, 1]"
    )
    cost = measure_complexity(config.override({"g_*.split": 0.0}), (64, 64)).kmacs_per_px
    (tmp_path / "space.yaml").write_text(f"{text}constraints: {{kmacs_per_px: {cost - 0.01}}}\n")
    began = time.process_time()
    assert say(folder, "--space", str(tmp_path / "space.yaml"), "--dry-run", "--out", "out") == 0
    assert time.process_time() - began < 5
    told = capsys.readouterr().out
    (row,) = (line for line in told.splitlines() if line.startswith("| split 0 "))
    assert f"dropped: kmacs_per_px {cost:.2f} > {cost - 0.01:g}" in row
    assert "2 within the constraints (" in told
    assert "1 outside" in told
    assert "Estimated" not in told


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("g_*.split", "g_*.spilt"), ["space.yaml", "spilt", "Did you mean split"]),
        (("size: [64, 64]", "constraints: {kmacs_per_px: 1}"), ["kmacs_per_px = 1"]),
        (("name: real", "name: [real"), ["space.yaml", "not YAML"]),
    ],
)
def test_a_mistake_in_the_space_ends_with_one_line_and_code_2(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, str],
    words: list[str],
) -> None:
    text = SPACE.replace("tiny.yaml", str(folder / "tiny.yaml"))
    (tmp_path / "space.yaml").write_text(text.replace(*change))
    assert say(folder, "--space", str(tmp_path / "space.yaml"), "--out", "out") == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert all(word in errors for word in words), errors
    assert not (folder / "out").exists()


@pytest.mark.parametrize("option", ["--data", "--eval-data"])
def test_an_empty_folder_of_images_ends_with_one_line_and_code_2(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    (tmp_path / "empty").mkdir()
    assert say(folder, option, str(tmp_path / "empty"), "--out", "out") == 2
    errors = capsys.readouterr().err
    assert str(tmp_path / "empty") in errors
    assert errors.count("\n") == 1
    assert not (folder / "out").exists()


def test_an_unknown_command_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "reprot"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "tcm-lab study reprot: no such command. Did you mean report" in said
    assert "run, report, compare" in said


class Steps:
    """A watch that keeps the steps that it was told."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def progress(self, step: int, text: str) -> None:
        assert text.startswith(f"training {1 if step <= 1 else 2} of 2") or "coding" in text
        self.steps.append(step)

    def rung(self, step: int, rd: RdRecord) -> bool:
        raise AssertionError("there are no rungs")


def test_weights_of_each_lambda_are_trained_and_their_points_joined(
    folder: Path, tmp_path: Path
) -> None:
    changes = "rate_levels: 0, changes: {lambdas: [0.001, 0.004], batch: 1, crop: 64}"
    text = SPACE.replace("rate_levels: 2, changes: {batch: 2}", changes).replace(
        "steps: 20", "steps: 2"
    )
    text = text.replace("tiny.yaml", str(folder / "tiny.yaml"))
    (tmp_path / "space.yaml").write_text(text)
    variants = Variants(load_space(tmp_path / "space.yaml"))
    images = open_images(folder / "eval", "eval")[:1]
    trainer = CodecTrainer(StudyData(open_images(folder / "train", "train"), images))
    recipe, out, watch = variants.recipe(), tmp_path / "trial", Steps()
    outcome = trainer(Task(variants.baseline().config, recipe, out, ()), watch)
    assert [point.lmbda for point in outcome.rd.points] == [0.001, 0.004]
    trainings = [outcome.training, *outcome.more]
    assert [t.recipe.lambdas for t in trainings if t] == [(0.001,), (0.004,)]
    files = out.glob("lambda-*/model.safetensors")
    assert sorted(file.parent.name for file in files) == ["lambda-0.001", "lambda-0.004"]
    assert watch.steps == sorted(watch.steps)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("steps: 20", "rungs: [0.5], steps: 20"), "rungs: need a training that learns all"),
        (("scratch", "minute"), "rate_levels = 0: trains weights for each lambda"),
        (("rate_levels: 0", "rate_levels: 1"), "give 2 or more, or 0"),
    ],
)
def test_a_budget_that_cannot_train_weights_per_lambda_says_why(
    folder: Path, tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    text = SPACE.replace("tiny.yaml", str(folder / "tiny.yaml"))
    (tmp_path / "bad.yaml").write_text(
        text.replace("rate_levels: 2", "rate_levels: 0").replace(*change)
    )
    with pytest.raises(ConfigError, match=words):
        load_space(tmp_path / "bad.yaml")

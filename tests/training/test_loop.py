import contextlib
import csv
import itertools
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from run_training import run
from safetensors.torch import load_file
from stand_in import RandomCrops, TinyCodec
from torch import Tensor, nn

from tcm_lab._utils.held import held
from tcm_lab.codec import build
from tcm_lab.errors import FileError, LabError
from tcm_lab.training import Recipe, Snapshot, TrainingProgress, TrainingRecord, train
from tcm_lab.training.log import TrainingLog
from tcm_lab.training.objective import rate_distortion
from tcm_lab.training.state import FILE_NAME

RECIPE = Recipe(lambdas=(0.01,), steps=20, batch=4, crop=16, lr=1e-3, checkpoint_every=5)


def codec(levels: int = 0) -> TinyCodec:
    torch.manual_seed(0)
    return TinyCodec(levels)


def weights(model: TinyCodec) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def in_a_process(directory: Path, *arguments: str) -> int:
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(here / "run_training.py"), str(directory), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def final_state(directory: Path) -> dict[str, Tensor]:
    return load_file(directory / "training.safetensors")


def test_training_lowers_the_loss_and_leaves_a_codec_that_codes() -> None:
    seen: list[TrainingProgress] = []
    model = codec()
    recipe = RECIPE.changed(steps=60)
    record = train(model, recipe, RandomCrops(), on_progress=seen.append, accelerator="cpu")
    assert [progress.step for progress in seen] == [5 * n for n in range(1, 13)]
    assert seen[-1].loss < 0.5 * seen[0].loss
    assert record.loss == pytest.approx(seen[-1].loss)
    assert record.steps == 60
    assert record.images_per_s > 0
    assert not model.training
    assert model.entropy_bottleneck.quantized_cdf.numel()
    assert TrainingRecord.model_validate_json(record.model_dump_json()) == record


def test_the_reported_loss_is_lambda_d_plus_bpp() -> None:
    seen: list[TrainingProgress] = []
    train(codec(), RECIPE, RandomCrops(), on_progress=seen.append, accelerator="cpu")
    assert len(seen) == 4
    for progress in seen:
        expected = 0.01 * 255**2 * 10 ** (-progress.psnr_db / 10) + progress.bpp
        assert progress.loss == pytest.approx(expected, rel=1e-4)


def rows(directory: Path) -> list[tuple[str, ...]]:
    with (directory / "log.csv").open() as file:
        return [(row["step"], row["loss"], row["lr"]) for row in csv.DictReader(file)]


@pytest.mark.usefixtures("one_thread")
def test_killed_and_resumed_ends_at_the_weights_of_the_uninterrupted_run(tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run(whole)
    assert in_a_process(halves, "kill=13") == -signal.SIGKILL
    run(halves)
    expected, found = final_state(whole), final_state(halves)
    assert set(expected) == set(found)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert rows(whole) == rows(halves)
    assert [step for step, *_ in rows(whole)] == ["10", "20", "23"]


@pytest.mark.usefixtures("one_thread")
def test_a_branch_of_a_constant_rate_is_the_shorter_training_itself(tmp_path: Path) -> None:
    long = RECIPE.changed(steps=60, schedule="constant", warmup=3, ema=0.9)
    short = long.changed(steps=30)
    folder = tmp_path / "branch"
    train(codec(), long, RandomCrops(), branches={folder: short}, accelerator="cpu")
    branched, alone = codec(), codec()
    train(branched, short, RandomCrops(), directory=folder, resume=True, accelerator="cpu")
    train(alone, short, RandomCrops(), accelerator="cpu")
    expected, found = weights(alone), weights(branched)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.usefixtures("one_thread")
def test_the_loss_curve_is_the_same_after_a_kill_and_holds_the_means_of_logarithms(
    tmp_path: Path,
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run(whole)
    assert in_a_process(halves, "kill=13") == -signal.SIGKILL
    run(halves)
    curves = [
        TrainingRecord.model_validate_json((each / "training.json").read_bytes()).curve
        for each in (whole, halves)
    ]
    assert curves[0] == curves[1]
    assert curves[0].steps == (10, 20, 23)
    with (whole / "log.csv").open() as file:
        log = list(csv.DictReader(file))
    assert [float(row["log_loss"]) for row in log] == pytest.approx(curves[0].log_loss, abs=1e-5)
    assert all(float(row["log_loss"]) < math.log(float(row["loss"])) for row in log)  # Jensen


@pytest.mark.usefixtures("one_thread")
def test_tensorboard_shows_what_the_log_holds_also_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer

    assert in_a_process(tmp_path, "kill=13") == -signal.SIGKILL
    # TensorBoard orders its files by the second in their names; resume an hour later.
    clock = SimpleNamespace(time=lambda: time.time() + 3600)
    monkeypatch.setattr(event_file_writer, "time", clock)
    run(tmp_path)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    with (tmp_path / "log.csv").open() as file:
        log = list(csv.DictReader(file))
    assert set(board.Tags()["scalars"]) == set(log[0]) - {"step"}
    for name in board.Tags()["scalars"]:
        shown = [(event.step, event.value) for event in board.Scalars(name)]
        assert shown == [(int(row["step"]), pytest.approx(float(row[name]), 1e-5)) for row in log]


@pytest.mark.usefixtures("one_thread")
def test_two_processes_take_the_steps_of_one_at_the_whole_batch(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run(one, steps=3)
    assert in_a_process(two, "steps=3", "devices=2") == 0
    expected, found = final_state(one), final_state(two)
    for name in expected:
        if name.endswith("exp_avg"):  # the mean of the gradients
            assert torch.allclose(expected[name], found[name], atol=1e-5), name
    assert json.loads((two / "training.json").read_text())["processes"] == 2


def test_ctrl_c_saves_the_step_that_was_done_and_goes_on(tmp_path: Path) -> None:
    uninterrupted = codec()
    train(uninterrupted, RECIPE, RandomCrops(), accelerator="cpu")
    crops = RandomCrops(signal_at=(12, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(codec(), RECIPE, crops, directory=tmp_path, accelerator="cpu")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = codec()
    record = train(
        resumed, RECIPE, RandomCrops(), directory=tmp_path, resume=True, accelerator="cpu"
    )
    for name, value in weights(uninterrupted).items():
        assert torch.equal(weights(resumed)[name], value), name
    assert record.steps == 20


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first, again = codec(), codec()
    train(first, RECIPE, RandomCrops(), directory=tmp_path, accelerator="cpu")
    no_crops = RandomCrops(signal_at=(0, signal.SIGKILL))
    train(again, RECIPE, no_crops, directory=tmp_path, resume=True, accelerator="cpu")
    for name, value in weights(first).items():
        assert torch.equal(weights(again)[name], value), name


def test_a_folder_with_another_training_is_left_alone(tmp_path: Path) -> None:
    train(codec(), RECIPE, RandomCrops(), directory=tmp_path, accelerator="cpu")
    with pytest.raises(LabError, match="already holds a training"):
        train(codec(), RECIPE, RandomCrops(), directory=tmp_path, accelerator="cpu")
    other = RECIPE.changed(lr=2e-3, seed=4)
    with pytest.raises(
        LabError,
        match=r"began with a different lr \(0.001 there, 0.002 here\), seed \(0 there, 4 here\)",
    ):
        train(codec(), other, RandomCrops(), directory=tmp_path, resume=True, accelerator="cpu")
    later = RECIPE.changed(orthogonality=0.2)
    with pytest.raises(LabError, match="began with a different orthogonality"):
        train(codec(), later, RandomCrops(), directory=tmp_path, resume=True, accelerator="cpu")


def test_another_width_of_a_codec_is_not_resumed(tmp_path: Path) -> None:
    train(codec(), RECIPE, RandomCrops(), directory=tmp_path, accelerator="cpu")
    with pytest.raises(LabError, match=r"safetensors: does not fit TinyCodec: .* of another shape"):
        train(
            TinyCodec(width=8), RECIPE, RandomCrops(), directory=tmp_path, resume=True,
            accelerator="cpu",
        )  # fmt: skip


@pytest.mark.usefixtures("one_thread")
def test_a_training_that_began_with_coding_tables_is_resumed_without_them(tmp_path: Path) -> None:
    begun, resumed, whole = codec(), codec(), codec()
    begun.update()
    crops = RandomCrops(signal_at=(12, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(begun, RECIPE, crops, directory=tmp_path, accelerator="cpu")
    train(whole, RECIPE, RandomCrops(), accelerator="cpu")
    for model in (resumed, begun):  # the second time, to the end that it has reached already
        train(model, RECIPE, RandomCrops(), directory=tmp_path, resume=True, accelerator="cpu")
        for name, value in weights(whole).items():
            assert torch.equal(weights(model)[name], value), name


@pytest.mark.parametrize("version", ["this", "an earlier one"])
def test_a_training_is_not_resumed_with_other_frozen_weights(tmp_path: Path, version: str) -> None:
    begun, other = codec(), codec()
    begun.g_a.requires_grad_(False)
    train(begun, RECIPE, RandomCrops(), directory=tmp_path, accelerator="cpu")
    other.h_a.requires_grad_(False)
    other.g_s.bias.requires_grad_(False)
    message = r"\(g_a frozen there, trained here; h_a, g_s\.bias trained there, frozen here\)"
    if version == "an earlier one":
        numbered(tmp_path / "training.safetensors", begun)
        message = r"training\.safetensors: began with a different set of frozen parameters\. "
    with pytest.raises(LabError, match=message):
        train(other, RECIPE, RandomCrops(), directory=tmp_path, resume=True, accelerator="cpu")


def numbered(path: Path, model: TinyCodec) -> None:
    """Rewrite a state as earlier versions did, with its moments by their parameters' numbers."""
    state = Snapshot.load(path)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    main = [name for name in trained if not name.endswith("quantiles")]
    numbers = {f"adam/{name}/": f"adam/{number}/" for number, name in enumerate(main)}
    numbers["aux/entropy_bottleneck.quantiles/"] = "aux/0/"

    def before(name: str) -> str:
        path, slash, moment = name.rpartition("/")
        return numbers.get(path + slash, path + slash) + moment

    tensors = {before(name): value for name, value in state.tensors.items()}
    assert tensors.keys() != state.tensors.keys()
    facts = {name: value for name, value in state.facts.items() if name != "trained"}
    Snapshot(tensors, facts).save(path)


@pytest.mark.usefixtures("one_thread")
def test_a_state_whose_moments_have_numbers_is_resumed(tmp_path: Path) -> None:
    whole, begun, resumed = codec(), codec(), codec()
    train(whole, RECIPE, RandomCrops(), accelerator="cpu")
    crops = RandomCrops(signal_at=(12, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(begun, RECIPE, crops, directory=tmp_path, accelerator="cpu")
    numbered(tmp_path / "training.safetensors", begun)
    train(resumed, RECIPE, RandomCrops(), directory=tmp_path, resume=True, accelerator="cpu")
    for name, value in weights(whole).items():
        assert torch.equal(weights(resumed)[name], value), name


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["model.safetensors", "training.json"])
def test_what_a_training_without_a_state_left_is_not_replaced(
    tmp_path: Path, name: str, resume: bool
) -> None:
    (tmp_path / name).write_bytes(b"weeks of work")
    with pytest.raises(
        LabError, match=f"{name}: would be replaced, but belongs to a finished training"
    ):
        train(codec(), RECIPE, RandomCrops(), directory=tmp_path, resume=resume, accelerator="cpu")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"weeks of work"]


def test_a_folder_that_another_process_trains_in_is_refused_until_that_ends(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tcm_lab._utils.held import held\n"
        "with held(Path(sys.argv[1]), ''): print('held', flush=True); sys.stdin.read()"
    )
    folder = tmp_path / "new"
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(LabError, match="new: another process trains here"):
            train(codec(), RECIPE, RandomCrops(), directory=folder, accelerator="cpu")
        assert list(folder.iterdir()) == []
        other.kill()
    train(codec(), RECIPE, RandomCrops(), directory=folder, accelerator="cpu")


def test_no_process_is_started_for_a_folder_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(fabric: Fabric) -> None:
        raise AssertionError("the others would wait for one that is never to come")

    monkeypatch.setattr(Fabric, "launch", launch)
    with held(tmp_path, ""), pytest.raises(LabError, match="another process trains here"):
        train(codec(), RECIPE, RandomCrops(), directory=tmp_path, accelerator="cpu", devices=2)


def test_a_folder_that_is_a_file_is_refused_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("notes")
    no_crops = RandomCrops(signal_at=(0, signal.SIGKILL))
    with pytest.raises(LabError, match="out: cannot be created"):
        train(codec(), RECIPE, no_crops, directory=tmp_path / "out", accelerator="cpu")


def test_nan_batches_end_in_one_message_with_the_last_checkpoint_intact(tmp_path: Path) -> None:
    model = codec()
    with pytest.raises(LabError, match=r"diverged at step \d+ .*keeps the state of step 10"):
        train(model, RECIPE, RandomCrops(nan_at=12), directory=tmp_path, accelerator="cpu")
    kept = final_state(tmp_path)
    assert all(value.isfinite().all() for value in kept.values())
    assert all(value.isfinite().all() for value in weights(model).values())
    resumed = codec()
    train(resumed, RECIPE, RandomCrops(), directory=tmp_path, resume=True, accelerator="cpu")
    uninterrupted = codec()
    train(uninterrupted, RECIPE, RandomCrops(), accelerator="cpu")
    for name, value in weights(uninterrupted).items():
        assert torch.equal(weights(resumed)[name], value), name


class NoCrops(RandomCrops):
    """Fails if it is asked for a batch."""

    crop = RECIPE.crop

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Tensor:
        pytest.fail("trained")


def test_a_batch_that_processes_cannot_share_is_refused_before_the_work(tmp_path: Path) -> None:
    linear = RECIPE.changed(batch=2, start="linear", linear_steps=5, linear_batch=3)
    config = {"shortcut": "staged", "?_?.depth": 0}
    for model, recipe, name in (
        (codec(), RECIPE.changed(batch=3), "batch 3"),
        (build("tcm-nano", config), linear, "linear_batch 3"),
    ):
        with pytest.raises(LabError, match=f"^{name} cannot be shared by 2 processes"):
            train(model, recipe, NoCrops(), directory=tmp_path, accelerator="cpu", devices=2)
    assert not [*tmp_path.iterdir()]


def test_crops_of_another_size_than_the_recipe_records_are_refused() -> None:
    crops = NoCrops(64)
    crops.crop = 64
    with pytest.raises(LabError, match=r"^crop = 16: these crops are 64x64\. Make the CropSource"):
        train(codec(), RECIPE, crops, accelerator="cpu")


class NanOnce(RandomCrops):
    """Breaks one batch, the first time that it is asked for."""

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Tensor:
        batch = super().batch(step, batch_size, rank, world)
        self.nan_at = None if step == self.nan_at else self.nan_at
        return batch


def test_a_passing_divergence_is_rolled_back_and_lowers_the_rate() -> None:
    model = codec()
    rates: list[int] = []
    record = train(
        model, RECIPE, NanOnce(nan_at=12), on_progress=lambda p: rates.append(p.step),
        accelerator="cpu",
    )  # fmt: skip
    assert record.rollbacks == 1
    assert record.steps == 20
    assert all(value.isfinite().all() for value in weights(model).values())


def test_what_is_trained_again_after_a_divergence_is_logged_once(tmp_path: Path) -> None:
    recipe = RECIPE.changed(steps=60, checkpoint_every=30)
    crops = NanOnce(nan_at=55)
    record = train(codec(), recipe, crops, directory=tmp_path, accelerator="cpu")
    assert record.rollbacks == 1
    logged = [(int(step), float(lr)) for step, _, lr in rows(tmp_path)]
    assert [step for step, _ in logged] == [10, 20, 30, 40, 50, 60]
    assert record.curve.steps == (10, 20, 30, 40, 50, 60)
    assert [lr for _, lr in logged] == pytest.approx([1e-3] * 3 + [5e-4] * 3)


class Alternating(nn.Module):
    """The objective of a codec, with a loss that is a thousand times as high at some steps."""

    def __init__(self, high: Collection[int], *parts: Any) -> None:
        super().__init__()
        self.objective, self.high, self.step = rate_distortion(*parts), high, 0

    def forward(self, x: Tensor, levels: Tensor | None) -> dict[str, Tensor]:
        self.step += 1
        losses = self.objective(x, levels)
        factor = 1000.0 if self.step in self.high else 1.0
        loss, log_loss = factor * losses["loss"], losses["log_loss"] + math.log(factor)
        return {**losses, "loss": loss, "log_loss": log_loss}


@pytest.mark.parametrize("changes", [{}, {"checkpoint_every": 1}, {"steps": 121}])
def test_crops_of_high_loss_are_no_divergence(changes: dict[str, int], tmp_path: Path) -> None:
    recipe, seen = RECIPE.changed(**{"steps": 120, "checkpoint_every": 10} | changes), set[int]()

    def on_progress(state: TrainingProgress) -> None:
        if (tmp_path / FILE_NAME).exists():
            seen.add(Snapshot.load(tmp_path / FILE_NAME).facts["step"])

    record = train(
        codec(), recipe, RandomCrops(), directory=tmp_path, accelerator="cpu",
        on_progress=on_progress, objective=partial(Alternating, (57, 84, 88, 89, 121)),
    )  # fmt: skip
    assert record.rollbacks == 0
    assert seen.isdisjoint({57, 84, 88, 89})  # none of these states is kept


def test_an_explosion_that_lasts_is_rolled_back_to_the_state_before_it() -> None:
    recipe, steps = RECIPE.changed(steps=120, checkpoint_every=10), list[int]()
    record = train(
        codec(), recipe, RandomCrops(), accelerator="cpu",
        on_progress=lambda p: steps.append(p.step),
        objective=partial(Alternating, range(61, 81)),
    )  # fmt: skip
    assert record.rollbacks == 1
    assert steps == [*range(10, 71, 10), *range(70, 121, 10)]


class Counting(nn.Module):
    """The objective of a codec, whose logarithmic loss is replaced by hundredths of the step."""

    def __init__(self, *parts: Any) -> None:
        super().__init__()
        self.objective, self.step = rate_distortion(*parts), 0

    def forward(self, x: Tensor, levels: Tensor | None) -> dict[str, Tensor]:
        self.step += 1
        return {**self.objective(x, levels), "log_loss": torch.tensor(self.step / 100)}


@pytest.mark.parametrize(
    ("changes", "rows_kept", "means"),
    [
        (
            {"steps": 40, "checkpoint_every": 8},
            2000,
            {10: 0.055, 20: 0.155, 30: 0.255, 40: 0.355},
        ),
        ({"steps": 65, "checkpoint_every": 30}, 3, {20: 0.105, 40: 0.305, 60: 0.505, 65: 0.63}),
    ],
)
def test_a_row_of_the_log_is_the_mean_of_all_steps_since_the_last(
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, int],
    rows_kept: int,
    means: dict[int, float],
) -> None:
    monkeypatch.setattr("tcm_lab.training.loop._LOG_ROWS", rows_kept)
    record = train(
        codec(), RECIPE.changed(**changes), RandomCrops(), accelerator="cpu", objective=Counting
    )
    assert dict(zip(record.curve.steps, record.curve.log_loss, strict=True)) == means


def test_a_row_of_the_log_is_whole_after_a_resumption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcm_lab.training.loop._LOG_ROWS", 3)
    recipe, curves = RECIPE.changed(steps=65), []
    for folder, crops in (
        (tmp_path / "whole", RandomCrops()),
        (tmp_path / "parts", RandomCrops(signal_at=(13, signal.SIGINT))),
    ):
        with contextlib.suppress(KeyboardInterrupt):
            train(codec(), recipe, crops, directory=folder, accelerator="cpu")
        options: dict[str, Any] = {"directory": folder, "resume": True, "accelerator": "cpu"}
        curves.append(train(codec(), recipe, RandomCrops(), **options).curve)
    assert curves[0].steps == (20, 40, 60, 65)
    assert curves[1].log_loss == pytest.approx(curves[0].log_loss, abs=1e-5)


def test_the_pace_after_a_rollback_is_that_of_the_steps_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter(range(1_000_000))  # each look at the clock takes a second
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(now)))
    seen: list[TrainingProgress] = []
    recipe = RECIPE.changed(steps=200, checkpoint_every=20)
    train(codec(), recipe, NanOnce(nan_at=195), on_progress=seen.append, accelerator="cpu")
    undone = next(i for i, (a, b) in enumerate(itertools.pairwise(seen)) if b.step <= a.step)
    before, after = seen[undone], seen[undone + 1]
    assert after.step < 200
    assert after.images_per_s > 0.5 * before.images_per_s


@pytest.mark.parametrize("damage", [b"\xff\xfe\0\n", b"x,1,2\n", b"ten" + 9 * b",1" + b"\n"])
def test_a_damaged_log_keeps_its_whole_rows(tmp_path: Path, damage: bytes) -> None:
    crops = RandomCrops(signal_at=(12, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(codec(), RECIPE, crops, directory=tmp_path, accelerator="cpu")
    with (tmp_path / "log.csv").open("ab") as file:
        file.write(damage)
    train(codec(), RECIPE, RandomCrops(), directory=tmp_path, resume=True, accelerator="cpu")
    assert [step for step, *_ in rows(tmp_path)] == ["10", "20"]


@contextlib.contextmanager
def file_size_limit(limit_bytes: int) -> Iterator[None]:
    """Make the system refuse to write larger files, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_in_one_message_with_the_last_checkpoint_intact(tmp_path: Path) -> None:
    class Filling(RandomCrops):
        def batch(self, step: int, *arguments: int) -> Tensor:  # type: ignore[override]
            if (tmp_path / "training.safetensors").exists():
                limit.enter_context(file_size_limit(1000))
            return super().batch(step, *arguments)

    recipe = RECIPE.changed(steps=200)
    with contextlib.ExitStack() as limit, pytest.raises(FileError, match=r"cannot be written"):
        train(codec(), recipe, Filling(), directory=tmp_path, accelerator="cpu")
    left = {p.name for p in tmp_path.iterdir()} - {"tensorboard"}
    assert left == {"log.csv", "training.safetensors"}
    assert all(value.isfinite().all() for value in final_state(tmp_path).values())


def test_a_row_that_the_disk_does_not_take_is_no_fault_of_the_codec(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, 0, RECIPE)
    row = dict.fromkeys(("loss", "bpp", "mse", "psnr_db", "aux", "gradient_norm", "lr"), 1.0)
    row |= {"images_per_s": 1.0, "log_loss": 1.0}
    log.write(row | {"step": 10})  # TensorBoard's thread has nothing left to write after it
    with file_size_limit(80), pytest.raises(FileError, match=r"log\.csv: cannot be written"):
        log.write(row | {"step": 20})
    log.close()


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    state, crops = tmp_path / "training.safetensors", RandomCrops()
    Snapshot({}, {"step": 1}).save(state)
    whole = state.read_bytes()
    without_facts = whole.replace(b"facts", b"fects")
    for damaged in (b"half a file", whole.replace(b"{\\", b"[\\"), without_facts):
        assert damaged != whole
        state.write_bytes(damaged)
        with pytest.raises(LabError, match=r"training\.safetensors: cannot be read"):
            train(codec(), RECIPE, crops, directory=tmp_path, resume=True, accelerator="cpu")


def test_the_average_of_the_weights_is_what_remains() -> None:
    model, plain = codec(), codec()
    start = weights(model)
    train(model, RECIPE.changed(ema=0.999999), RandomCrops(), accelerator="cpu")
    train(plain, RECIPE, RandomCrops(), accelerator="cpu")
    assert torch.allclose(weights(model)["g_a.weight"], start["g_a.weight"], atol=1e-6)
    assert not torch.allclose(weights(plain)["g_a.weight"], start["g_a.weight"], atol=1e-4)


def test_bfloat16_and_channels_last_train_with_float32_likelihoods() -> None:
    model = codec()
    recipe = RECIPE.changed(precision="bf16-mixed", channels_last=True)
    likelihoods: list[torch.dtype] = []
    hook = model.entropy_bottleneck.register_forward_hook(
        lambda module, args, out: likelihoods.append(out[1].dtype)
    )
    record = train(model, recipe, RandomCrops(), accelerator="cpu")
    hook.remove()
    assert set(likelihoods) == {torch.float32}
    plain = train(codec(), RECIPE, RandomCrops(), accelerator="cpu")
    assert record.loss == pytest.approx(plain.loss, rel=0.02)
    assert "forward" not in vars(model.entropy_bottleneck)


def test_a_recipe_that_does_not_fit_the_codec_is_refused() -> None:
    with pytest.raises(LabError, match="2 rate levels needs 2 lambdas"):
        train(codec(levels=2), RECIPE, RandomCrops(), accelerator="cpu")
    with pytest.raises(LabError, match=r"one rate needs one lambda.*rate_levels to 2 "):
        train(codec(), RECIPE.with_lambdas(0.01, 0.02), RandomCrops(), accelerator="cpu")


def test_the_callers_random_numbers_are_left_alone() -> None:
    model = codec()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(model, RECIPE.changed(steps=2), RandomCrops(), accelerator="cpu")
    assert torch.equal(torch.rand(3), expected)

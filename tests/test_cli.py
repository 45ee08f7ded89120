"""The command line: what each command prints and writes, how mistakes end, how light it starts."""

from __future__ import annotations

import fnmatch
import json
import logging
import ntpath
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import tcm_lab
from tcm_lab.cli import main
from tcm_lab.cli.app import COMMANDS
from tcm_lab.cli.options import check_place
from tcm_lab.codec import build, export_state, load_checkpoint, save_checkpoint
from tcm_lab.errors import LabError
from tcm_lab.reporting import read_records
from tcm_lab.training import get_recipe

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line; return exit code, standard output and standard error."""

    def call(*args: object) -> tuple[int, str, str]:
        try:
            code = main([str(arg) for arg in args])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small image of two sides that no stride divides."""
    path = tmp_path_factory.mktemp("images") / "waves.png"
    rows, columns = np.mgrid[0:37, 0:51]
    waves = np.stack([rows * 5, columns * 4, rows + columns], axis=-1)
    Image.fromarray(waves.astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    save_checkpoint(build("tcm-nano"), path)
    return path


@pytest.mark.parametrize(
    ("command", "names"), [("--help", list(COMMANDS)), ("models", tcm_lab.list_models())]
)
def test_help_and_names_are_listed_without_importing_what_is_heavy(
    command: str, names: list[str]
) -> None:
    code = (
        "import sys; from tcm_lab.cli import main\n"
        f"try: main(['{command}'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pandas', 'matplotlib', 'optuna', 'compressai', 'PIL'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stderr
    for name in names:
        assert name in done.stdout


def test_a_dry_run_imports_no_database_no_trainer_and_no_plots(tmp_path: Path) -> None:
    code = (
        "import sys; from tcm_lab.cli import main\n"
        "main(['study', '--space', 'configs/split.yaml', '--dry-run'])\n"
        "heavy = {'compressai', 'torchvision', 'optuna', 'sqlalchemy', 'scipy', 'pandas',\n"
        "         'matplotlib', 'lightning_fabric', 'lightning'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert "HEAVY []" in done.stderr
    assert "Nothing was trained." in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"tcm-lab {command}" in out


def test_the_three_published_sizes_cost_what_was_measured_on_the_authors_code(run: Run) -> None:
    code, out, _ = run(
        "complexity", "tcm-small", "tcm-medium", "tcm-large", "--size", "512x768",
        "--format", "json",
    )  # fmt: skip
    assert code == 0
    small, medium, large = json.loads(out)
    assert [entry["parameters"] for entry in (small, medium, large)] == [
        45_180_752,
        59_133_650,
        76_568_148,
    ]
    for entry, expected in ((small, 559.6), (medium, 1098.5), (large, 1846.4)):
        assert entry["kmacs_per_px"] == pytest.approx(expected, abs=0.1)
    gmacs = {name: view["gmacs"] for name, view in large["conventions"].items()}
    assert gmacs["all"]["whole"] == pytest.approx(726.1, abs=0.1)
    assert gmacs["no-attention-products"]["whole"] == pytest.approx(717.1, abs=0.1)
    assert gmacs["conv-linear-only"]["whole"] == pytest.approx(700.1, abs=0.1)
    assert gmacs["conv-linear-only"]["encode"] == pytest.approx(306.6, abs=0.1)
    assert gmacs["conv-linear-only"]["decode"] == pytest.approx(440.3, abs=0.1)
    assert large["parts_kmacs_per_px"]["g_a"] == pytest.approx(690.4, abs=0.1)
    assert large["parts_kmacs_per_px"]["g_s"] == pytest.approx(1033.0, abs=0.1)
    assert large["kinds_kmacs_per_px"]["attention"] == pytest.approx(22.8, abs=0.1)


def test_costs_become_tables_again_and_plots_without_measuring(run: Run, tmp_path: Path) -> None:
    records = tmp_path / "costs.json"
    arguments = ("tcm-nano", "tcm-nano-conv-only", "--size", "64x64", "256x256")
    assert run("complexity", *arguments, "--format", "json", "--out", records)[0] == 0
    direct = run("complexity", *arguments, "--format", "latex", "--convention", "conv-linear-only")
    again = run("table", records, "--format", "latex", "--convention", "conv-linear-only")
    assert again[1] == direct[1]
    for kind in ("parts", "parameters", "size"):
        assert run("plot", kind, records, "--out", tmp_path / kind)[0] == 0
        assert (tmp_path / f"{kind}.png").stat().st_size > 1000
        assert (tmp_path / f"{kind}.svg").read_text().startswith("<?xml")


def test_overrides_change_the_cost_and_show_in_the_name(run: Run) -> None:
    code, out, _ = run("complexity", "tcm-small", "--set", "g_*.split=0", "--format", "json")
    assert code == 0
    (entry,) = json.loads(out)
    assert entry["model"] == "tcm-small g_*.split=0"
    assert entry["kmacs_per_px"] != pytest.approx(559.6, abs=0.1)


def test_an_override_with_braces_is_named_as_it_was_typed(run: Run) -> None:
    typed = "h_*.block={type: convnext, kernel: 5}"
    code, out, err = run("complexity", "tcm-nano", "--set", typed, "--format", "json")
    assert code == 0, err
    assert json.loads(out)[0]["model"] == f"tcm-nano {typed}"


def test_published_figures_are_explained_to_the_printed_digit(run: Run) -> None:
    code, out, _ = run("complexity", "tcm-large", "--explain", "--format", "json")
    assert code == 0
    by_words = {row["printed_as"]: row["convention"] for row in json.loads(out)["rows"]}
    assert by_words["701 GFLOPs"] == "conv-linear-only"
    assert by_words["1823.6 kMAC/px"] == "no-attention-products"


def test_published_rows_stand_apart(run: Run) -> None:
    _, out, _ = run("complexity", "tcm-large", "--published")
    ours, theirs = out.split("published by others")
    assert "1846.4" in ours
    assert "1823.6" in theirs


def test_times_have_a_row_per_model_and_a_ratio(run: Run) -> None:
    code, out, _ = run(
        "time", "tcm-nano", "tcm-nano-conv-only", "--size", "64x64", "--repeats", "3",
        "--seconds", "0", "--warm-up", "1", "--stages",
    )  # fmt: skip
    assert code == 0
    assert "ratio to the first" in out
    assert "entropy coding" in out
    assert "3 runs after 1 warm-up run." in out


def test_a_trained_checkpoint_is_evaluated_and_codes_an_image_there_and_back(
    run: Run, tmp_path: Path, image: Path
) -> None:
    folder = tmp_path / "run"
    code, out, err = run(
        "train", "tcm-nano", "--recipe", "scratch", "--steps", "2", "--batch", "2", "--crop", "64",
        "--rate-levels", "2", "--out", folder, "--eval-data", image.parent,
    )  # fmt: skip
    assert code == 0, err
    assert "2 steps of 2 crops of 64x64, λ = 0.0025, 0.05" in out
    rows = [line.split("|") for line in out.splitlines() if line.startswith("| tcm-nano")]
    assert [float(row[2]) for row in rows] == [0.0025, 0.05]
    assert "No BD-rate of tcm-nano" in out
    assert len(read_records(folder / "rd.json")) == 3
    assert (folder / "rd.svg").exists()
    weights = folder / "model.safetensors"
    records = tmp_path / "rd.json"
    assert (
        run("evaluate", weights, "--data", image.parent, "--format", "json", "--out", records)[0]
        == 0
    )
    assert len(json.loads(records.read_text())[0]["bpp"]) == 2
    code, out, _ = run("evaluate", weights, "--data", image.parent, "--format", "compressai")
    assert set(json.loads(out)["results"]) >= {"bpp", "psnr-rgb"}
    code, out, _ = run("evaluate", weights, "--data", image.parent, "--anchors", "jpeg")
    assert "| jpeg " in out
    coded, decoded = tmp_path / "coded.tcm", tmp_path / "decoded.png"
    assert run("encode", image, coded, "--checkpoint", weights, "--rate", "1")[0] == 0
    assert run("decode", coded, decoded, "--checkpoint", weights)[0] == 0
    err = run("decode", image, decoded, "--checkpoint", weights)[2]
    assert err.startswith(f"tcm-lab: error: {image}: not a .tcm file")
    with Image.open(decoded) as image:
        assert image.size == (51, 37)


def test_checkpoints_of_one_lambda_each_are_evaluated_and_drawn_as_one_curve(
    run: Run, tmp_path: Path, image: Path
) -> None:
    weights = []
    for seed, lmbda in enumerate((0.02, 0.01)):
        recipe = get_recipe("scratch", lambdas=(lmbda,), steps=1)
        weights.append(tmp_path / f"{lmbda}.safetensors")
        extra = {"recipe": recipe.model_dump(mode="json")}
        save_checkpoint(build("tcm-nano", seed=seed), weights[-1], extra)
    records = tmp_path / "rd.json"
    arguments = ("--data", image.parent, "--format", "json", "--out", records)
    assert run("evaluate", *weights, *arguments)[0] == 0
    assert [r["record"]["recipe"]["lambdas"] for r in json.loads(records.read_text())] == [
        [0.02],
        [0.01],
    ]
    table = json.loads(run("table", records, "--format", "json")[1])
    assert [(row["model"], row["lmbda"]) for row in table["rows"]] == [
        ("tcm-nano", 0.01),
        ("tcm-nano", 0.02),
    ]
    assert run("plot", "rd", records, "--out", tmp_path / "rd")[0] == 0
    _, out, _ = run("evaluate", *weights, "--data", image.parent, "--format", "compressai")
    assert len(json.loads(out)["results"]["bpp"]) == 2


def test_weights_are_exported_at_half_the_size_and_in_the_published_layout(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    half, again = tmp_path / "half.safetensors", tmp_path / "again.safetensors"
    code, out, _ = run("export", checkpoint, half, "--half")
    assert code == 0
    assert out.strip() == f"{half}: {half.stat().st_size} bytes"
    # All but the header, which is the same text.
    assert half.stat().st_size < 0.52 * checkpoint.stat().st_size
    whole = dict(load_checkpoint(checkpoint).named_parameters())
    rounded = dict(load_checkpoint(half).named_parameters())
    assert whole.keys() == rounded.keys()
    for name, value in rounded.items():
        assert torch.equal(value, whole[name].half().float()), name

    first = export_state(build("tcm-small", {"?_?.width": 64}))
    torch.save(first, tmp_path / "published.pth")
    assert run("export", tmp_path / "published.pth", again)[0] == 0
    assert run("export", again, tmp_path / "back.pth", "--layout", "lic_tcm")[0] == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(back[name], value) for name, value in first.items())


def test_the_coded_file_is_as_long_as_encode_says(
    run: Run, tmp_path: Path, image: Path, checkpoint: Path
) -> None:
    coded = tmp_path / "coded.tcm"
    _, out, _ = run("encode", image, coded, "--checkpoint", checkpoint)
    size = coded.stat().st_size
    assert f"{size} bytes, {8 * size / (37 * 51):.4f} bpp" in out
    _, out, _ = run("encode", image, coded, "--checkpoint", checkpoint, "--portable")
    assert f"{coded.stat().st_size} bytes" in out
    assert "portable, with 0 bytes of decisions" in out
    assert run("decode", coded, tmp_path / "decoded.png", "--checkpoint", checkpoint)[0] == 0


def test_models_and_blocks_are_listed(run: Run) -> None:
    assert {"tcm-small", "tcm-medium", "tcm-large"} <= set(run("models", "tcm-*")[1].split())
    assert "compressai/mbt2018" in run("models", "compressai/*")[1].split()
    code, out, _ = run("blocks", "--format", "json")
    assert code == 0
    names = {(row["kind"], row["name"]) for row in json.loads(out)["rows"]}
    assert {("block", "tcm"), ("attention", "swatten"), ("resampler", "residual")} <= names


def test_names_are_matched_as_python_does_also_where_files_have_no_case(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fnmatch, "os", SimpleNamespace(path=ntpath))  # as on Windows
    assert tcm_lab.list_models("TCM-*") == []
    for options in ([], ["--trained"]):
        code, out, error = run("models", "TCM-*", *options)
        assert (code, out) == (2, "")
        assert "no model's name matches" in error
        assert "tcm-nano" in run("models", "tcm-*", *options)[1].split()


def test_trained_codecs_are_listed_with_their_cards_and_code_images_by_name(
    run: Run, image: Path, tmp_path: Path
) -> None:
    assert run("models", "tcm-nano*", "--trained")[1].split() == list(tcm_lab.codec.trained_names())
    assert run("card", "tcm-nano")[1].startswith("# tcm-nano\n")
    assert run("card", "tcm-small")[0] == 2
    coded, named = tmp_path / "coded.tcm", ("--checkpoint", "tcm-nano")
    assert run("encode", image, coded, *named, "--rate", "1")[0] == 0
    assert run("decode", coded, tmp_path / "decoded.png", *named)[0] == 0
    code, _, err = run("encode", image, coded, "--checkpoint", "tcm-small")
    assert code == 2
    assert "Trained codecs of this package: tcm-nano, " in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("complexity", "tcm-smal"), ("tcm-smal", "Did you mean tcm-small")),
        (("complexity",), ("MODEL", "at least one")),
        (("complexity", "tcm-nano", "--size", "512"), ("512", "512x768")),
        (("complexity", "tcm-nano", "--size"), ("--size: give at least one value", "512x768")),
        (("analyze", "latents", "tcm-nano", "--max-images", "0"), ("--max-images 0", "at least 1")),
        (("analyze", "erf", "tcm-nano", "--max-images", "-1"), ("--max-images -1", "at least 1")),
        (("complexity", "tcm-nano", "--set", "g_a.splt=0"), ("splt", "split")),
        (("complexity", "tcm-nano", "--set", "g_a.split"), ("PATH=VALUE",)),
        (("complexity", "tcm-nano", "--set", "g_a.split=["), ("--set g_a.split=[", "not YAML")),
        (("complexity", "tcm-nano", "--set", "g_a.width=010"), ("--set", "base 8")),
        (
            ("complexity", "tcm-nano", "--set", "g_a.block={type: tcm, type: swin}"),
            ("--set g_a.block", "'type' is given twice"),
        ),
        (
            ("complexity", "tcm-nano", "--set", "g_a.split=0", "--set=g_s.split=0"),
            ("--set: is given 2 times", "all its values after one --set"),
        ),
        (("complexity", __file__), ("is code", "test_cli.py:NAME")),
        (("time", __file__, "--set", "a=1"), ("is code", "test_cli.py:NAME")),
        (("train", __file__), ("is code", "test_cli.py:NAME")),
        (("complexity", "none.yaml"), ("none.yaml", "no such file")),
        (("train", "tcm-nano", "--data", "nowhere", "--lambdas", "0.01"), ("nowhere", "folder")),
        (("train", "tcm-nano", "--lambdas", "1,2"), ("--lambdas 1,2", "as in --lambdas 1 2.")),
        (("evaluate", "tcm-nano", "--rates", "0", "1,2"), ("--rates 1,2", "as in --rates 1 2.")),
        (("evaluate", "tcm-nano", "--anchors=jpeg, webp"), ("as in --anchors jpeg webp.",)),
        (("decode", __file__, "a.png", "--checkpoint", "tcm-small"), ("no trained w", "tcm-nano")),
        (("train", "tcm-nano", "--recipe", "published"), ("--lambdas", "--rate-levels")),
        (("evaluate", "none.safetensors"), ("none.safetensors", "cannot be read")),
        (("decode", "none.tcm", "a.png", "--checkpoint", "c"), ("none.tcm", "cannot be read")),
        (("decode", "none.tcm", "a.xyz", "--checkpoint", "c"), ("a.xyz", ".png")),
        (("encode", "none.png", "a.tcm", "--checkpoint", "c"), ("none.png", "no such image")),
        (("table", "none.json"), ("none.json", "cannot be read")),
        (("complexty", "tcm-nano"), ("tcm-lab complexty", "Did you mean complexity")),
        (("analyze", "efr", "tcm-nano"), ("tcm-lab analyze efr", "Did you mean erf")),
        (("models", "tcm-smol"), ("tcm-smol", "tcm-small")),
        (("evaluate", "tcm-nano", "--device", "gpu"), ("--device gpu", "cpu or cuda")),
        (("analyze", "shortcut", "tcm-nano", "--device", "gpu"), ("--device gpu", "cpu or cuda")),
        (("time", "tcm-nano", "--device", "gpu"), ("--device gpu", "cpu or cuda")),
        (("time", "tcm-nano", "--stages", "--format", "csv"), ("--stages", "csv holds one")),
        (("time", "tcm-nano", "--stages", "--out", "a.csv"), ("--stages", "csv holds one")),
        (("train", "tcm-nano", "--devices", "0"), ("--devices 0", "at least 1")),
    ],
)
def test_a_mistake_ends_with_one_line_that_names_it_and_exit_code_2(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], words: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("tcm-lab: error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("complexity", "tcm-nano", "--check", "--memory", "--counter", "torch"),
            "--counter, --memory: have no effect with --check.",
        ),
        (
            ("complexity", "tcm-nano", "--check", "--explain"),
            "--explain: has no effect with --check",
        ),
        (("complexity", "tcm-nano", "--explain", "--size", "64x64"), "--size: has no effect"),
        (
            ("complexity", "tcm-nano", "--published", "--out", "a.json"),
            "--published: has no effect",
        ),
        (
            ("evaluate", "tcm-nano", "--anchors", "jpeg", "--format", "compressai"),
            "--anchors: has no effect with the format compressai.",
        ),
        (
            ("evaluate", "tcm-nano", "--bd-rate", "jpeg", "--format", "json"),
            "--bd-rate: has no effect with the format json.",
        ),
        (
            ("evaluate", "tcm-nano", "--anchors", "jpeg", "vtm", "--format", "json"),
            "--anchors vtm: has no effect with the format json.",
        ),
        (("study", "--space", "configs/split.yaml", "--slurm", "a=1"), "--launcher local"),
        (
            ("study", "--space", "configs/split.yaml", "--dry-run", "--open"),
            "--open: has no effect",
        ),
        (("train", "tcm-nano", "--skip-evaluation", "--eval-data", "x"), "--eval-data: has no"),
        (
            ("train", "tcm-nano", "--init", "tcm-nano", "--linear-steps", "9"),
            "--linear-steps: has no effect with --init",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_option_that_would_have_no_effect_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "tcm-nano", "--out", "note.png/x.json"),
        ("time", "tcm-nano", "--out", "note.png/x.json"),
        ("complexity", "tcm-nano", "--out", "note.png/below/x.json"),
        ("complexity", "tcm-nano", "--format", "json", "--out", "folder"),
        ("analyze", "shortcut", "tcm-nano", "--out", "note.png"),
        ("train", "tcm-nano", "--out", "note.png"),
        ("train", "tcm-nano", "--out", "note.png/below"),
        ("plot", "parts", "costs.json", "--out", "note.png/parts"),
        ("noise", "runs/none", "--out", "note.png/noise.yaml"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_written_is_refused_before_the_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.png").write_text("in the way")
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(tcm_lab.evaluation, "evaluate", None)
    monkeypatch.setattr(tcm_lab.analysis, "measure_shortcut", None)
    monkeypatch.setattr(tcm_lab.complexity, "measure_timing", None)
    monkeypatch.setattr(tcm_lab.training, "measure_pace", None)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"tcm-lab: error: --out {arguments[-1]}")
    assert "is a f" in err or "is not a folder" in err
    assert {path.name for path in tmp_path.iterdir()} == {"note.png", "folder"}


def test_a_place_is_looked_for_behind_links_and_pipes_are_none(
    tmp_path: Path,
) -> None:
    (tmp_path / "link").symlink_to("/proc/table.md")  # where not even root can create a file
    with pytest.raises(LabError, match=r"^--out .*link: /proc is not writable"):
        check_place(tmp_path / "link")
    with pytest.raises(LabError, match=r"^/proc/image.png: /proc is not writable"):
        check_place(Path("/proc/image.png"), "")
    (tmp_path / "below").symlink_to(tmp_path / "target" / "table.md")
    check_place(tmp_path / "below")
    assert not (tmp_path / "target").exists()
    check_place(Path(os.devnull))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("evaluate", "tcm-nano", "none.safetensors"), "none.safetensors: cannot be read"),
        (("analyze", "shortcut", "tcm-nano", "none"), "'none': neither a preset nor"),
        (("analyze", "latents", "tcm-nano", "none"), "'none': neither a preset nor"),
        (("evaluate", "tcm-nano", "SINGLE", "--rates", "1"), "rate = 1: tcm-nano has no rate"),
        (("analyze", "latents", "tcm-nano", "SINGLE", "--rate", "1"), "rate = 1: tcm-nano has no"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_in_the_last_model_is_found_before_work_on_the_first(
    run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], words: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(tcm_lab.evaluation, "evaluate", None)
    monkeypatch.setattr(tcm_lab.analysis, "measure_shortcut", None)
    monkeypatch.setattr(tcm_lab.analysis, "measure_latents", None)
    code, _, err = run(*(checkpoint if word == "SINGLE" else word for word in arguments))
    assert code == 2
    assert words in err


@pytest.mark.parametrize("command", ["evaluate", "time", "train"])
def test_a_gpu_that_is_not_there_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = run(command, "tcm-nano", "--device", "cuda")
    assert code == 2
    assert err == "tcm-lab: error: --device cuda: torch finds no GPU here; use cpu.\n"


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_more_gpus_than_there_are_is_said_as_such(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    code, _, err = run("train", "tcm-nano", "--device", device, "--devices", "4")
    assert code == 2
    assert err == "tcm-lab: error: --devices 4: torch finds 2 GPUs here.\n"


def test_a_training_from_given_weights_keeps_them_says_so_and_resumes(
    run: Run, tmp_path: Path
) -> None:
    def train(*more: object) -> tuple[int, str, str]:
        return run(
            "train", "tcm-nano", "--recipe", "minute", "--steps", "1", "--crop", "64", "--lr",
            "1e-9", "--out", tmp_path / "on", "--skip-evaluation", *more,
        )  # fmt: skip

    code, out, err = train("--init", "tcm-nano", "--resume")
    assert code == 0
    assert "recipe minute from the weights of tcm-nano in place of its start, 1 step" in out
    assert err.startswith(f"tcm-lab: warning: no state in {tmp_path / 'on'}; starting over\n")
    source, codec = (
        load_checkpoint(n) for n in ("tcm-nano", tmp_path / "on" / "model.safetensors")
    )
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(codec(x, 1)["x_hat"], source(x, 1)["x_hat"], atol=0.1, rtol=0)
    code, _, err = train("--init", "tcm-nano", "--resume")
    assert code == 2
    assert "--init tcm-nano: the folder holds the state of a training" in err
    code, _, err = train("--resume")
    assert code == 0
    assert "starting over" not in err


def test_a_model_that_is_set_to_one_rate_is_trained_at_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []

    def train(codec: tcm_lab.Codec, *_: object, **__: object) -> None:
        trained.append(codec.config.rate_levels)
        raise LabError("stop")

    monkeypatch.setattr(tcm_lab.training, "train", train)
    words = ("train", "tcm-nano", "--steps", "1", "--skip-evaluation", "--out", tmp_path)
    for more in ((), ("--set", "rate_levels=0"), ("--rate-levels", "0")):
        assert run(*words, *more)[2].endswith("stop\n")
    assert trained == [4, 0, 0]


def test_a_port_that_is_taken_is_one_error(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "optuna_dashboard.py").write_text(  # which serves by the standard library, too
        "from wsgiref.simple_server import make_server\n"
        "def run_server(url, host, port):\n"
        "    make_server(host, port, None)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "study.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = run("dashboard", tmp_path, "--port", port)
    assert code == 2
    assert f"--port {port}: cannot be served at" in err
    assert run("dashboard", tmp_path, "--port", 70_000)[0] == 2


def test_a_command_says_what_it_logs_once(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, other = (
        logging.LogRecord(f"tcm_lab.{name}", logging.WARNING, "", 0, "too %s", ("small",), None)
        for name in ("training.recipe", "study.worker")
    )
    assert logging.lastResort is not None
    for _ in range(2):
        run("models")
        for _ in range(3):
            logging.lastResort.handle(recipe)
        assert capsys.readouterr().err == "too small\n"
    logging.lastResort.handle(other)
    assert capsys.readouterr().err == "too small\n"


def test_an_unknown_option_ends_with_exit_code_2(run: Run) -> None:
    code, _, err = run("complexity", "tcm-nano", "--frmat", "json")
    assert code == 2
    assert "--frmat" in err
    assert "Traceback" not in err


def test_published_curves_are_refused_for_other_images_than_kodaks(
    run: Run, image: Path, checkpoint: Path
) -> None:
    for words in (("--bd-rate", "vtm"), ("--anchors", "jpeg", "vtm", "bpg")):
        code, _, err = run("evaluate", checkpoint, "--data", image.parent, *words)
        assert code == 2
        assert err.startswith("tcm-lab: error: vtm: published curves are for Kodak images")
        assert err.count("\n") == 1
    code, _, err = run("evaluate", checkpoint, "--data", image.parent, "--anchors", "webq")
    assert code == 2
    assert "Did you mean webp" in err


def test_vtm_and_bpg_are_anchors_by_name_on_kodak(
    run: Run, image: Path, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "kodim01.png").write_bytes(image.read_bytes())
    words = ("--anchors", "jpeg", "vtm", "bpg")
    records = tmp_path / "rd.json"
    code, out, err = run("evaluate", checkpoint, "--data", tmp_path, *words, "--bd-rate", "jpeg")
    assert code == 0
    assert f"warning: {tmp_path} holds 1 of the 24 Kodak images" in err
    assert "BD-rate against jpeg" in out
    assert tcm_lab.reporting.WITHOUT_HEADERS in out
    lone = run("evaluate", checkpoint, "--data", tmp_path, "--bd-rate", "jpeg")
    assert tcm_lab.reporting.WITHOUT_HEADERS in lone[1]  # of images coded here, no published curve
    rows = [line.split("|")[1].split("[")[0].strip() for line in out.splitlines() if "|" in line]
    assert {"tcm-nano", "jpeg", "vtm", "bpg"} <= set(rows)
    for file in ("vtm.json", "bpg_444_x265_ycbcr.json"):
        assert f"results/image/kodak/{file}" in out
    assert run("evaluate", checkpoint, "--data", tmp_path, *words[:2], "--out", records)[0] == 0
    drawn = ("plot", "rd", records, "--out", tmp_path / "rd")
    assert run(*drawn, "--anchors", "vtm", "bpg")[0] == 0
    assert run(*drawn, "--metric", "ssim")[0] == 0
    assert "SSIM" in (tmp_path / "rd.svg").read_text()
    code, _, err = run(*drawn, "--metric", "ssim", "--anchors", "vtm")
    assert code == 2
    assert "published curves have psnr_db, not ssim" in err


def test_a_codec_with_the_name_of_a_published_one_is_compared_with_it(
    run: Run, image: Path, tmp_path: Path
) -> None:
    (tmp_path / "kodim01.png").write_bytes(image.read_bytes())
    config = tcm_lab.load_config("tcm-nano").override({"name": "tcm-large", "rate_levels": 2})
    tcm_lab.save_checkpoint(tcm_lab.build(config), tmp_path / "own.safetensors")
    words = ("--data", tmp_path, "--bd-rate", "tcm-large")
    code, out, _ = run("evaluate", tmp_path / "own.safetensors", *words)
    assert code == 0
    compared = out[out.index("BD-rate against") :]
    rows = [line.split("|")[1].strip() for line in compared.splitlines() if line.startswith("|")]
    assert rows[2:] == ["tcm-large"]


def test_an_anchor_that_pillow_was_built_without_is_left_out_after_a_training(
    run: Run, tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.features.check", lambda feature: feature != "webp")
    code, out, err = run(
        "train", "tcm-nano", "--recipe", "scratch", "--steps", "1", "--batch", "1", "--crop", "64",
        "--rate-levels", "2", "--out", tmp_path, "--eval-data", image.parent,
    )  # fmt: skip
    assert code == 0
    assert "Comparison with jpeg" in out
    assert "tcm-lab: warning: webp: this Pillow was built without it." in err
    assert [record.name for record in read_records(tmp_path / "rd.json")][1:] == ["jpeg"]
    weights = tmp_path / "model.safetensors"
    code, _, err = run("evaluate", weights, "--data", image.parent, "--anchors", "webp")
    assert code == 2
    assert "built without" in err


def test_published_curves_stand_beside_those_measured_on_kodak(run: Run, tmp_path: Path) -> None:
    record = tcm_lab.evaluation.evaluate_anchor("jpeg", tcm_lab.data.open_images(None, "eval")[:1])
    text = tcm_lab.reporting.records_json([record])
    words = ("plot", "rd", tmp_path / "rd.json", "--out", tmp_path / "rd", "--anchors", "dcae")
    (tmp_path / "rd.json").write_text(text)
    code, _, err = run(*words)
    assert code == 2
    assert f"dcae: published curves are for Kodak images, but {tmp_path}" in err
    name = record.points[0].images[0].name
    (tmp_path / "rd.json").write_text(text.replace(json.dumps(name), '"kodim01.png"'))
    assert run(*words)[0] == 0
    assert "dcae" in (tmp_path / "rd.svg").read_text()
    code, _, err = run(*words[:-1], "dcaf")
    assert code == 2
    assert "Did you mean dcae" in err


def test_ctrl_c_ends_with_one_line_and_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "models", interrupted)
    code, _, err = run("models")
    assert code == 130
    assert err == "tcm-lab: interrupted\n"


def test_a_folder_that_cannot_be_written_is_named_and_nothing_is_left(
    run: Run, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    code, _, err = run("complexity", "tcm-nano", "--out", blocked / "table.md")
    assert code == 2
    assert "table.md" in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_python_m_is_the_same_command() -> None:
    command = [sys.executable, "-m", "tcm_lab", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tcm-lab ")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "cp437", "koi8-r", "utf-8"])
def test_what_an_output_cannot_show_is_replaced_in_any_encoding(
    encoding: str, tmp_path: Path
) -> None:
    table = {
        "title": "λ·255² ★ †",
        "columns": [{"key": "a", "header": "τ ≤ é 中"}],
        "rows": [{"values": {"a": "★ 💡"}}],
    }
    code = (
        "import json, sys\n"
        "from tcm_lab.cli.app import main\n"
        "from tcm_lab.cli import app\n"
        "from tcm_lab.cli.options import Output\n"
        "from tcm_lab.reporting import Table\n"
        "def models():\n"
        "    Output().show(Table.model_validate_json(sys.argv[1]))\n"
        "app.COMMANDS['models'] = models\n"
        "sys.exit(main(['models']) or main(['table', 'none ★ é.json']) - 2)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(table)],
        capture_output=True,
        # Of names of files and of the code above the encoding is the same everywhere.
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr
    assert b"255" in done.stdout
    assert b"Traceback" not in done.stderr
    done.stdout.decode(encoding)
    done.stderr.decode(encoding)
    assert done.stderr.count(b"\n") == 1


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m tcm_lab blocks --format json | head -c 10"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert len(done.stdout) == 10


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("> /dev/full", "No space left on device"),
        (">&-", "it is closed"),
    ],
)
@pytest.mark.parametrize(
    "words", ["models", "complexity tcm-nano --size 64x64 --format json", "--help"]
)
def test_output_that_cannot_be_written_is_one_error(words: str, where: str, reason: str) -> None:
    command = f"{sys.executable} -m tcm_lab {words} {where}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"tcm-lab: error: output cannot be written ({reason})")
    assert done.stderr.count("\n") == 1

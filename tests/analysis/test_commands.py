import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tcm_lab
from tcm_lab.analysis import (
    AttentionMap,
    AttentionRecord,
    ErfMap,
    ErfMeasures,
    LatentRecord,
    attention_map,
)
from tcm_lab.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: object) -> tuple[int, str, str]:
        code = main(["analyze", *map(str, args)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    torch.manual_seed(0)
    for name, size in (("a", (70, 64)), ("b", (64, 90))):
        pixels = (255 * torch.rand(*size, 3)).byte().numpy()
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def drawn(out: Path) -> set[str]:
    names = {path.stem for path in out.glob("*.png")}
    assert names == {path.stem for path in out.glob("*.svg")}
    return names


def test_erf_writes_records_plots_and_a_table(run: Run, folder: Path, tmp_path: Path) -> None:
    models = ("tcm-nano", "tcm-nano-conv-only")
    arguments = ("--data", folder, "--probes", 2, "--out", tmp_path, "--format", "json")
    code, out, _ = run("erf", *models, *arguments)
    assert code == 0
    assert drawn(tmp_path) == {"erf", "profile"}
    field, measures = json.loads((tmp_path / "tcm-nano.json").read_text())
    assert ErfMap.model_validate(field).images == ("a.png", "b.png")
    side = ErfMeasures.model_validate(measures).side_px[0.5].value
    (table,) = json.loads(out) if out.startswith("[") else [json.loads(out)]
    named = [tcm_lab.load_checkpoint(name).config.name for name in models]
    assert [row["model"] for row in table["rows"]] == named
    assert table["rows"][0]["side_50_px"]["value"] == side


def test_attention_writes_records_plots_and_a_table(run: Run, folder: Path, tmp_path: Path) -> None:
    code, out, _ = run(
        "attention", "tcm-nano", "--data", folder, "--out", tmp_path, "--query", 69, 63
    )
    assert code == 0
    assert out.count("| tcm-nano |") == 6
    assert drawn(tmp_path) == {"distance", "map-tcm-nano"}
    (record,) = json.loads((tmp_path / "tcm-nano.json").read_text())
    assert AttentionRecord.model_validate(record).images == ("a.png", "b.png")
    code, _, err = run("attention", "tcm-nano-conv-only", "--data", folder, "--out", tmp_path)
    assert (code, "no layer of g_a has window attention" in err) == (2, True)


def test_checkpoints_of_one_design_are_called_as_their_files_are(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("mine.safetensors", "low/model.safetensors")]
    for seed, path in enumerate(paths):
        tcm_lab.save_checkpoint(tcm_lab.build("tcm-nano", seed=seed), path)
    out = tmp_path / "out"
    models = ("tcm-nano", *paths, paths[0])
    code, table, _ = run("latents", *models, "--data", folder, "--out", out)
    assert code == 0
    assert {file.stem for file in out.glob("*.json")} == {"tcm-nano", "mine", "low", "mine#2"}
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    assert rows[2:] == ["tcm-nano", "mine", "low", "mine#2"]
    mine, low = (
        LatentRecord.model_validate(json.loads((out / f"{name}.json").read_text())[0])
        for name in ("mine", "low")
    )
    assert mine.interval("bpp") != low.interval("bpp")


def test_a_click_draws_what_the_clicked_query_sees() -> None:
    from matplotlib.backend_bases import MouseButton, MouseEvent

    from tcm_lab.reporting.plots import attention_map_plot, connect_clicks

    codec = tcm_lab.build("tcm-nano").eval()
    image = (255 * torch.rand(3, 64, 64)).byte()
    layer = "g_a.stages.0.blocks.0.swin.attention"
    asked: list[tuple[int, int]] = []

    def look(pixel: tuple[int, int]) -> AttentionMap:
        asked.append(pixel)
        return attention_map(codec, image, layer, pixel)

    figure = attention_map_plot({"first": look((3, 4))}, image.numpy())
    connect_clicks(figure, image.numpy(), look)
    figure.canvas.draw()
    axes = figure.axes[0]
    x, y = axes.transData.transform((30, 20))
    event = MouseEvent("button_press_event", figure.canvas, x, y, MouseButton.LEFT)
    figure.canvas.callbacks.process("button_press_event", event)
    assert asked == [(3, 4), (20, 30)]
    assert "query (20, 30)" in axes.get_title(loc="left")
    event = MouseEvent("button_press_event", figure.canvas, 0, 0, MouseButton.LEFT)
    figure.canvas.callbacks.process("button_press_event", event)
    assert len(asked) == 2


def test_a_query_outside_the_image_is_refused_before_anything_is_measured(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcm_lab.analysis, "measure_attention", None)
    code, _, err = run(
        "attention", "tcm-nano", "--data", folder, "--out", tmp_path, "--query", 5000, 5000
    )
    assert (code, "(5000, 5000)" in err) == (2, True)

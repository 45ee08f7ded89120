"""A file's name and what is written to it agree, whatever writes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tcm_lab
from tcm_lab.cli.app import main

SMALL = ("complexity", "tcm-nano", "--size", "64x64")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, an image, and a record of costs."""
    path = tmp_path_factory.mktemp("written")
    tcm_lab.save_checkpoint(tcm_lab.build("tcm-nano"), path / "nano.safetensors")
    Image.new("RGB", (64, 64)).save(path / "image.png")
    assert main([*SMALL, "--out", str(path / "costs.json")]) == 0
    return path


@pytest.mark.parametrize(
    ("words", "name", "message"),
    [
        ((*SMALL, "--format", "json"), "costs.csv", "is json; call it costs.json"),
        ((*SMALL, "--format", "latex"), "costs.md", "is latex; call it costs.tex"),
        (SMALL, "costs.pdf", "its suffix says no format; write costs.md, costs.tex"),
        (SMALL, "costs", "its suffix says no format; write costs.md, costs.tex"),
        (("table", "costs.json"), "table.png", "its suffix says no format; write table.md"),
        (("blocks", "--format", "html"), "blocks.json", "is html; call it blocks.html"),
        (
            ("evaluate", "nano.safetensors", "--format", "compressai"),
            "rd.csv",
            "is compressai; call it rd.json",
        ),
        (("plot", "parts", "costs.json"), "parts.pdf", "a PNG and an SVG file; call it parts.png"),
        (
            ("encode", "image.png", "OUT", "--checkpoint", "nano.safetensors"),
            "coded.png",
            "is a coded file; call it coded.tcm",
        ),
        (("export", "nano.safetensors", "OUT"), "nano.json", "call it nano.safetensors"),
        (("export", "nano.safetensors", "OUT"), "nano.pth", "call it nano.safetensors"),
        (("noise", "runs/small"), "noise.json", "is YAML; call it noise.yaml"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_a_name_that_says_another_format_is_refused_and_nothing_is_written(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    name: str,
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    where = [name if word == "OUT" else word for word in words]
    assert main([*where, *([] if "OUT" in words else ["--out", name])]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert name in error
    assert sorted(folder.iterdir()) == before


def _is_json(text: str) -> Any:
    return json.loads(text)


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("a.md", lambda text: "| model" in text),
        ("a.txt", lambda text: "| model" in text),
        ("a.tex", lambda text: r"\begin{tabular}" in text),
        ("a.csv", lambda text: text.startswith("model,")),
        ("a.json", _is_json),
        ("A.HTML", lambda text: text.startswith("<!doctype html>")),
    ],
)
def test_the_suffix_chooses_the_format(
    tmp_path: Path, name: str, holds: Callable[[str], object]
) -> None:
    assert main([*SMALL, "--out", str(tmp_path / name)]) == 0
    assert holds((tmp_path / name).read_text())


def test_a_format_that_is_named_is_written_under_any_other_name(tmp_path: Path) -> None:
    assert main([*SMALL, "--format", "csv", "--out", str(tmp_path / "costs.v1")]) == 0
    assert (tmp_path / "costs.v1").read_text().startswith("model,")

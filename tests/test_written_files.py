"""A file's name and what is written to it agree, whatever writes it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tcm_lab
from tcm_lab._utils.files import write_atomically
from tcm_lab.cli.app import main
from tcm_lab.data import open_images
from tcm_lab.errors import FileError
from tcm_lab.evaluation import RdRecord
from tcm_lab.reporting import read_records

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
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
        (SMALL, "costs.pdf", "its suffix names no format; write costs.md, costs.tex"),
        (SMALL, "costs", "its suffix names no format; write costs.md, costs.tex"),
        (("table", "costs.json"), "table.png", "its suffix names no format; write table.md"),
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
        *(
            (
                ("encode", "image.png", "OUT", "--checkpoint", "nano.safetensors"),
                f"coded.{kind}",
                "is a coded file; call it coded.tcm",
            )
            for kind in ("jp2", "pgm", "jfif", "heic", "qoi", "SGI")
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


def _coded(folder: Path) -> None:
    """Link to the inputs by other names, and code the image."""
    for name, target in (("photo", "image.png"), ("weights", "nano.safetensors")):
        (folder / name).symlink_to(target)
    (folder / "hard").hardlink_to(folder / "image.png")
    assert main(["encode", "image.png", "a.tcm", "--checkpoint", "nano.safetensors"]) == 0
    (folder / "a.png").hardlink_to(folder / "a.tcm")


def test_no_command_writes_to_what_it_reads(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    _coded(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    by = ("--checkpoint", "nano.safetensors")
    for words in (
        ("encode", "image.png", "photo", *by),
        ("encode", "image.png", "hard", *by),
        ("encode", "image.png", "weights", *by),
        ("decode", "a.tcm", "a.png", *by),
        ("export", "nano.safetensors", "nano.safetensors", "--half"),
        ("export", "nano.safetensors", "weights"),
        ("table", "costs.json", "--out", "costs.json"),
    ):
        assert main([*words]) == 2, words
        assert "is the same file as" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.ico", "it would be scaled to 26x32"),
        ("a.icns", "it would be scaled to"),
        ("a.xbm", "cannot write mode RGB"),
        ("a.palm", "cannot write mode RGB"),
        ("a.h5", "save handler not installed"),
        ("a.blp", "Unsupported BLP"),
    ],
)
def test_a_format_that_cannot_hold_the_image_is_refused(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 32)).save("image.png")
    by = ("--checkpoint", str(folder / "nano.safetensors"))
    assert main(["encode", "image.png", "a.tcm", *by]) == 0
    capsys.readouterr()
    assert main(["decode", "a.tcm", name, *by]) == 2
    error = capsys.readouterr().err
    assert f"{name}: cannot write an image of 32x40" in error
    assert reason in error
    assert error.endswith("Write .png.\n")
    assert not Path(name).exists()
    for other in ("a.webp", "a.gif", "a.pdf"):
        assert main(["decode", "a.tcm", other, *by]) == 0


def test_a_link_stays_one_and_a_file_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    secret, link = tmp_path / "far" / "secret", tmp_path / "link"
    secret.write_text("old")
    secret.chmod(0o600)
    link.symlink_to("far/secret")
    write_atomically(link, "new")
    assert link.is_symlink()
    assert secret.read_text() == "new"
    assert secret.stat().st_mode & 0o777 == 0o600
    (tmp_path / "ahead").symlink_to("far/later")
    write_atomically(tmp_path / "ahead", "new")
    assert (tmp_path / "far" / "later").read_text() == "new"
    assert (tmp_path / "far" / "later").stat().st_mode & 0o777 == 0o644


def test_a_new_file_is_as_private_as_the_user_wants(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomically(tmp_path / "private", "new")
    finally:
        os.umask(before)
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600


def test_a_pipe_is_written_to_as_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write_atomically(pipe, "new")
    reader.join(300)
    assert read == ["new"]
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["", "a\0b", "a/b", "x" * 300, "loop"])
def test_what_cannot_be_written_is_one_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_text("a file, no folder")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FileError, match="cannot be written"):
        write_atomically(tmp_path / name, "new")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "loop"}


@pytest.mark.parametrize("most", [3000, 300])  # of 64x64 pixels Pillow warns, or opens none
def test_an_image_is_decoded_that_pillow_would_open_from_nobody_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    by = ("--checkpoint", str(folder / "nano.safetensors"))
    coded, decoded = str(tmp_path / "a.tcm"), tmp_path / "a.png"
    assert main(["encode", str(folder / "image.png"), coded, *by]) == 0
    with monkeypatch.context() as patched:
        patched.setattr(Image, "MAX_IMAGE_PIXELS", most)
        assert main(["decode", coded, str(decoded), *by]) == 0
    with Image.open(decoded) as image:
        assert image.size == (64, 64)


def tcm_lab_in_ascii(*words: bytes) -> str:
    """Run a command where names of files are ASCII's, and return what it writes to stderr."""
    done = subprocess.run(
        [os.fsencode(sys.executable), b"-m", b"tcm_lab", *words],
        capture_output=True,
        env={**os.environ, **ASCII},
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode("utf-8", "replace")
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    return done.stderr.decode("ascii")


def test_names_that_the_locale_does_not_hold_are_written_as_they_are(
    folder: Path, tmp_path: Path
) -> None:
    images = tmp_path / "Größe"
    images.mkdir()
    ramp = np.arange(70, dtype=np.uint8)[None].repeat(70, 0)
    for name in (images / "é.png").as_posix().encode(), os.fsencode(images) + b"/\xe9.png":
        with open(name, "wb") as file:  # noqa: PTH123 - no Path has such a name
            Image.fromarray(ramp).convert("RGB").save(file, format="png")
    weights, records = tmp_path / "über.safetensors", tmp_path / "é.json"
    shutil.copy(folder / "nano.safetensors", weights)
    shown = (b"--data", os.fsencode(images))
    out = (b"--format", b"json", b"--out", os.fsencode(records))
    tcm_lab_in_ascii(b"evaluate", os.fsencode(weights), *shown, *out)
    (record,) = read_records(records)
    assert isinstance(record, RdRecord)
    in_utf8 = open_images(images, "eval")
    assert in_utf8.fingerprint == record.data_fingerprint
    assert in_utf8.names == ("é.png", "\\xe9.png")
    assert [image.name for image in record.points[0].images] == ["é.png", "\\xe9.png"]
    table, plot = tmp_path / "tablé.html", tmp_path / "plöt"
    tcm_lab_in_ascii(b"table", os.fsencode(records), b"--out", os.fsencode(table))
    title = (b"--title", "Größe".encode(), b"--out", os.fsencode(plot))
    tcm_lab_in_ascii(b"plot", b"rd", os.fsencode(records), *title)
    assert table.exists()
    assert plot.with_suffix(".png").exists()


def test_a_study_has_any_folder_in_any_locale(tmp_path: Path) -> None:
    study = Path(__file__).parents[1] / "studies" / "split"
    folder = tmp_path / "étude"
    folder.mkdir()
    for name in ("space.yaml", "records.jsonl"):
        shutil.copy(study / name, folder / name)
    tcm_lab_in_ascii(b"study", b"report", os.fsencode(folder))
    assert "étude" in (folder / "report.html").read_text(encoding="utf-8")
    database = f"""
import sys
from tcm_lab.study.folder import sqlite_url, study_name
from tcm_lab.study.queue import open_queue
folder = __import__("pathlib").Path(sys.argv[1])
with open_queue(sqlite_url(folder / "study.db"), study_name(folder), ["minimize"]):
    assert study_name(folder) == "{tmp_path.name}" + chr(233) , ascii(study_name(folder))
"""
    new = tmp_path / f"{tmp_path.name}é"
    new.mkdir()
    command = [sys.executable, "-c", database, os.fsencode(new)]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **ASCII})
    assert done.returncode == 0, done.stderr

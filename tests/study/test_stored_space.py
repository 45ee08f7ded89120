"""What a study stores of its space is read from any working directory, and wherever it went."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import pytest
from surrogate import SPACE, Surrogate, trained

from tcm_lab.codec import load_config
from tcm_lab.study.compare import compare_studies
from tcm_lab.study.prepare import prepare
from tcm_lab.study.report import write_report
from tcm_lab.study.result import StudyResult, open_result
from tcm_lab.study.run import run_study
from tcm_lab.study.space import load_space

LIGHT = 'base: tcm-nano\nname: light\noverride: {"g_*.split": 0.25}\n'
BASED = SPACE.replace("base: tcm-nano", "base: light.yaml")
METRIC = """
import tcm_lab

@tcm_lab.register_metric("halves_of_a_test")
def halves(record, baseline):
    return record.complexity.total_parameters / 2
"""


def search(tmp_path: Path, space: str = "space.yaml", out: str = "runs/toy") -> StudyResult:
    trainer = Surrogate(tmp_path / "log")
    return run_study(prepare(load_space(space), out=Path(out), trainer=trainer), 1)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a space and its base, which commands are called in."""
    place = tmp_path / "project"
    (place / "elsewhere").mkdir(parents=True)
    (place / "light.yaml").write_text(LIGHT)
    (place / "space.yaml").write_text(BASED)
    monkeypatch.chdir(place)
    return place


def kept(folder: Path) -> Mapping[str, object]:
    """Return the space in a study's database."""
    database = sqlite3.connect(folder / "study.db")
    text = "select value_json from study_user_attributes where key = 'full_space'"
    (found,) = database.execute(text).fetchone()
    database.close()
    return json.loads(found)


def test_a_study_based_on_a_file_is_read_and_resumed_from_another_directory(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = search(tmp_path)
    out, base = project / "runs/toy", load_config("light.yaml")
    assert str(tmp_path) not in (out / "space.yaml").read_text()
    assert str(tmp_path) not in json.dumps(kept(out))
    monkeypatch.chdir(project / "elsewhere")
    result = open_result(out)
    assert result.records == found.records
    assert write_report(result, "tcm-lab study").table.rows
    assert compare_studies(result, result)
    assert load_config(load_space(out / "space.yaml").base) == base
    assert search(tmp_path, str(out / "space.yaml"), str(out)).records == found.records
    assert search(tmp_path, "../space.yaml", "../runs/toy").records == found.records
    assert len(trained(tmp_path / "log")) == 5


def test_a_study_outlives_the_file_that_it_was_based_on(project: Path, tmp_path: Path) -> None:
    found = search(tmp_path)
    base = load_config("light.yaml")
    moved = Path(shutil.move(project / "runs/toy", tmp_path / "moved"))
    shutil.rmtree(project / "elsewhere")
    (project / "light.yaml").unlink()
    result = open_result(moved)
    assert result.records == found.records
    assert result.space.baseline == base.override({"rate_levels": 4})
    (moved / "study.db").unlink()  # as it is published
    write_report(result, "tcm-lab study")
    assert open_result(moved).space.baseline == result.space.baseline


def test_a_space_that_is_searched_in_place_names_its_base_as_it_was_written(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "mine").mkdir()
    written = BASED.replace("light.yaml", "../light.yaml")
    (project / "mine/space.yaml").write_text(written)
    base = search(tmp_path, "mine/space.yaml", "mine").space.baseline
    assert (project / "mine/space.yaml").read_text() == written
    assert not (project / "mine/base.yaml").exists()
    assert kept(project / "mine")["base"] == "../light.yaml"
    monkeypatch.chdir(project / "elsewhere")
    assert open_result(project / "mine").space.baseline == base


def test_another_file_where_the_base_would_be_kept_stays_as_it_is(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = project / "runs/toy/base.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("base: tcm-nano\n")
    base = search(tmp_path).space.baseline
    assert own.read_text() == "base: tcm-nano\n"
    monkeypatch.chdir(project / "elsewhere")
    assert open_result(own.parent).space.baseline == base


def test_a_study_that_was_begun_by_a_relative_base_is_mended_when_it_goes_on(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = search(tmp_path)
    out = project / "runs/toy"
    (out / "base.yaml").unlink(missing_ok=True)  # as earlier versions left a study
    with sqlite3.connect(out / "study.db") as database:
        text = "update study_user_attributes set value_json = ? where key = 'full_space'"
        database.execute(text, [json.dumps({**kept(out), "base": "light.yaml"})])
    file = out / "space.yaml"
    file.write_text(file.read_text().replace("base: base.yaml", "base: light.yaml"))
    again = search(tmp_path)
    assert again.records == found.records
    base = again.space.baseline
    monkeypatch.chdir(project / "elsewhere")
    assert open_result(out).space.baseline == load_space(file).baseline == base


def test_a_file_that_a_space_imports_is_found_from_another_directory(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "metric_of_a_stored_space.py").write_text(METRIC)
    imports = "import: [metric_of_a_stored_space.py]\nobjectives: [psnr_db, halves_of_a_test]\n"
    (project / "space.yaml").write_text(BASED + imports)
    found = search(tmp_path)
    out = project / "runs/toy"
    assert kept(out)["import"] == ["../../metric_of_a_stored_space.py"]
    assert str(tmp_path) not in (out / "space.yaml").read_text()
    monkeypatch.chdir(project / "elsewhere")
    assert open_result(out).records == found.records
    assert load_space(out / "space.yaml").objectives == found.space.objectives

"""The queue's database: unique claims, studies that moved, databases that are not ours."""

from __future__ import annotations

import json
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from optuna.trial import TrialState
from surrogate import SPACE, Surrogate

from tcm_lab.errors import LabError
from tcm_lab.study import open_result, prepare, run_study
from tcm_lab.study.folder import sqlite_url
from tcm_lab.study.queue import open_queue
from tcm_lab.study.space import load_space, parse_space


def study(tmp_path: Path, folder: str, text: str = SPACE, **options: object):
    space = parse_space(text, "toy.yaml", None)
    trainer = Surrogate(tmp_path / "log")
    return run_study(prepare(space, out=tmp_path / folder, trainer=trainer, **options), 1)  # type: ignore[arg-type]


def test_of_many_workers_that_want_one_training_exactly_one_gets_it(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "study.db")
    with open_queue(url, "toy", ["minimize"]) as queue:
        trials = [queue.ask() for _ in range(4)]

    def claim(index: int) -> bool:
        with open_queue(url, "toy") as queue:
            return queue.claim(trials[index], "codec-s0")

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(claim, range(4))) == [False, False, False, True]
    rows = sqlite3.connect(tmp_path / "study.db").execute("select key from tcm_lab_claims")
    assert rows.fetchall() == [("codec-s0",)]


def test_a_claim_is_free_again_once_its_trial_was_lost_but_not_once_it_failed(
    tmp_path: Path,
) -> None:
    with open_queue(sqlite_url(tmp_path / "study.db"), "toy", ["minimize"]) as queue:
        first, second, third = queue.ask(), queue.ask(), queue.ask()
        assert queue.claim(first, "codec-s0")
        queue.study.tell(first, state=TrialState.FAIL)  # as of a worker that is gone
        assert queue.claim(second, "codec-s0")
        assert not queue.claim(third, "codec-s0")
        queue.fail(second, "diverged")
        assert not queue.claim(third, "codec-s0")


def test_a_requeued_training_can_be_claimed_before_its_first_trial_has_ended(
    tmp_path: Path,
) -> None:
    with open_queue(sqlite_url(tmp_path / "study.db"), "toy", ["minimize"]) as queue:
        queue.enqueue({}, key="codec-s0", rungs={10: 1.5})
        first = queue.ask()
        assert queue.claim(first, "codec-s0")
        queue.requeue(first)
        again = queue.ask()
        assert queue.claim(again, "codec-s0")
        attributes = queue.attributes(again)
        assert attributes.begun
        assert attributes.rungs == {10: 1.5}


def test_a_study_that_was_renamed_or_copied_is_read_and_resumed(tmp_path: Path) -> None:
    first = study(tmp_path, "toy")
    trained = (tmp_path / "log").read_text()
    shutil.copytree(tmp_path / "toy", tmp_path / "copy")
    (tmp_path / "toy").rename(tmp_path / "renamed")
    for folder in ("renamed", "copy"):
        assert open_result(tmp_path / folder).records == first.records
        assert study(tmp_path, folder).records == first.records
    assert (tmp_path / "log").read_text() == trained
    (tmp_path / "copy" / "study.json").unlink()
    assert open_result(tmp_path / "copy").records == first.records


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    database = sqlite3.connect(tmp_path / "toy" / "study.db")
    database.execute("create table recipes (id integer)")
    database.commit()
    with pytest.raises(LabError, match=r"study.db: is the database of another program.*recipes"):
        study(tmp_path, "toy")
    tables = database.execute("select name from sqlite_master").fetchall()
    assert tables == [("recipes",)]


@pytest.mark.parametrize(
    ("revision", "fix"), [("v3.0.0.a", "optuna storage upgrade"), ("v9.0.0.a", "pip install -U")]
)
def test_a_database_of_another_version_of_optuna_names_the_fix(
    tmp_path: Path, revision: str, fix: str
) -> None:
    study(tmp_path, "toy")
    database = sqlite3.connect(tmp_path / "toy" / "study.db")
    database.execute("update alembic_version set version_num = ?", [revision])
    database.commit()
    with pytest.raises(LabError, match=fix) as caught:
        open_result(tmp_path / "toy")
    assert "\n" not in str(caught.value)


METRIC = """
import tcm_lab

@tcm_lab.register_metric("macs_per_parameter", label="MACs per parameter")
def macs_per_parameter(record, baseline):
    return record.complexity.kmacs_per_px / record.complexity.total_parameters
"""


def test_a_users_own_metric_is_imported_by_the_space_and_by_its_workers(tmp_path: Path) -> None:
    (tmp_path / "own_metric_of_a_test.py").write_text(METRIC)
    text = SPACE + (
        "import: [own_metric_of_a_test.py]\nobjectives: [lagrangian_percent, macs_per_parameter]"
    )
    (tmp_path / "space.yaml").write_text(text)
    space = load_space(tmp_path / "space.yaml")
    assert space.imports == (str(tmp_path / "own_metric_of_a_test.py"),)
    out, trainer = tmp_path / "toy", Surrogate(tmp_path / "log")
    result = run_study(prepare(space, out=out, trainer=trainer), 2)
    rows = sqlite3.connect(out / "study.db").execute(
        "select t.number, v.value from trials t join trial_values v using (trial_id) "
        "where v.objective = 1"
    )
    told = dict(rows.fetchall())
    for record in result.records:
        counted = record.complexity
        assert told[record.number] == counted.kmacs_per_px / counted.total_parameters
    assert "own_metric_of_a_test.py" in (out / "space.yaml").read_text()
    assert json.loads((out / "study.json").read_text()) == {"name": "toy"}


def test_an_import_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"toy.yaml: .*nowhere.py: no such file"):
        parse_space(SPACE + "import: [nowhere.py]", "toy.yaml", None)

"""The queue's database: unique claims, studies that moved, databases that are not ours."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.trial import Trial, TrialState
from surrogate import SPACE, Surrogate

from tcm_lab.errors import LabError
from tcm_lab.study import open_result, prepare, run_study
from tcm_lab.study.folder import sqlite_url
from tcm_lab.study.queue import TrialQueue, open_queue
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


def _renamed(toy: Path) -> Path:
    return toy.rename(toy.with_name("renamed"))


def _copied(toy: Path) -> Path:
    return Path(shutil.copytree(toy, toy.with_name("copy")))


def _linked(toy: Path) -> Path:
    link = toy.with_name("link")
    link.symlink_to(toy, target_is_directory=True)
    return link


def _roundabout(toy: Path) -> Path:
    return toy / ".." / toy.name / "."


def _relative(toy: Path) -> Path:
    return Path(os.path.relpath(toy))


def _deeper(toy: Path) -> Path:
    (toy.parent / "a" / "study").mkdir(parents=True)
    return toy.rename(toy.parent / "a" / "study" / "été 1 % ?#")


def _nameless(toy: Path) -> Path:
    (toy / "study.json").unlink()
    return toy.rename(toy.with_name("nameless"))


def _swapped(toy: Path) -> Path:
    """The folder has the name of another study's now."""
    return toy.rename(toy.with_name("split"))


MOVES = (_renamed, _copied, _linked, _roundabout, _relative, _deeper, _nameless, _swapped)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    study(folder, "toy")
    return folder


@pytest.mark.parametrize("move", MOVES)
def test_a_study_is_read_and_resumed_wherever_it_went(
    finished: Path, tmp_path: Path, move: Callable[[Path], Path]
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    first = open_result(finished / "toy").records
    folder = move(tmp_path / "toy")
    assert open_result(folder).records == first
    assert study(tmp_path, str(folder.absolute())).records == first
    assert (tmp_path / "log").read_text() == (finished / "log").read_text()


def _of_another_program(database: sqlite3.Connection) -> None:
    database.execute("create table recipes (id integer)")


def _with_studies_of_its_own(database: sqlite3.Connection) -> None:
    database.execute("create table studies (id integer, title text)")


def _with_a_view(database: sqlite3.Connection) -> None:
    database.execute("create table a (id integer)")
    database.execute("create view studies as select id from a")


def _of_alembic(database: sqlite3.Connection) -> None:
    database.execute("create table alembic_version (version_num text)")
    database.execute("insert into alembic_version values ('abc')")


def _with_names_alone(database: sqlite3.Connection) -> None:
    database.execute("create table studies (study_id integer primary key, study_name text)")


@pytest.mark.parametrize(
    "make",
    [_of_another_program, _with_studies_of_its_own, _with_a_view, _of_alembic, _with_names_alone],
)
def test_a_database_of_another_program_is_refused_and_left_alone(
    tmp_path: Path, make: Callable[[sqlite3.Connection], None]
) -> None:
    (tmp_path / "toy").mkdir()
    database = sqlite3.connect(tmp_path / "toy" / "study.db")
    make(database)
    database.commit()
    tables = database.execute("select name from sqlite_master").fetchall()
    with pytest.raises(LabError, match=r"study.db: belongs to another program \(its") as refused:
        study(tmp_path, "toy")
    assert "\n" not in str(refused.value)
    assert database.execute("select name from sqlite_master").fetchall() == tables


@pytest.mark.parametrize("objectives", [1, 2])
def test_a_study_of_another_program_is_refused_and_left_alone(
    tmp_path: Path, objectives: int
) -> None:
    (tmp_path / "toy").mkdir()
    url = sqlite_url(tmp_path / "toy" / "study.db")
    theirs = optuna.create_study(
        study_name="toy", storage=url, directions=["minimize"] * objectives
    )
    theirs.add_trial(optuna.create_trial(values=[0.0] * objectives))
    with pytest.raises(LabError, match=r"study.db: its study 'toy' belongs to another program"):
        study(tmp_path, "toy")
    with pytest.raises(LabError, match=r"study.db: its study 'toy' belongs to another program"):
        open_result(tmp_path / "toy")
    assert len(theirs.get_trials()) == 1
    assert theirs.user_attrs == {}


def _text(path: Path) -> None:
    path.write_text("something else " * 100)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _torn(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096 : 4096 * 6] = bytes(4096 * 5)
    path.write_bytes(bytes(data))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _nothing(path: Path) -> None:
    path.unlink()


def _later_space(path: Path) -> None:
    database = sqlite3.connect(path)
    text = "update study_user_attributes set value_json = ? where key = 'full_space'"
    database.execute(text, [json.dumps({"name": "toy", "base": "tcm-nano", "axis": {}})])
    database.commit()


def _other_study(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("update studies set study_name = 'other'")
    database.execute("insert into studies (study_name) values ('another')")
    database.commit()


@pytest.mark.parametrize(
    "spoil", [_text, _cut, _torn, _folder, _nothing, _later_space, _other_study]
)
def test_a_database_that_cannot_be_read_ends_in_one_message(
    finished: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    spoil(tmp_path / "toy" / "study.db")
    with pytest.raises(LabError, match=r"toy") as refused:
        open_result(tmp_path / "toy")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("revision", "fix"),
    [
        ("v0.9.0.a", "optuna storage upgrade"),
        ("v2.6.0.a", "optuna storage upgrade"),
        ("v3.0.0.a", "optuna storage upgrade"),
        ("v9.0.0.a", "pip install -U"),
        ("deadbeef", "pip install -U"),
    ],
)
def test_a_database_of_another_version_of_optuna_names_the_fix(
    finished: Path, tmp_path: Path, revision: str, fix: str
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
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


OPERATIONS: dict[str, Callable[[TrialQueue, Trial], object]] = {
    "ask": lambda queue, _: queue.ask(),
    "trials": lambda queue, _: queue.trials(),
    "note": lambda queue, trial: queue.note(trial, label="a codec", seed=1),
    "claim": lambda queue, trial: queue.claim(trial, "codec-s0"),
    "requeue": lambda queue, trial: queue.requeue(trial),
    "discard": lambda queue, trial: queue.discard(trial, "is trained already", {"kmacs": 0.5}),
    "fail": lambda queue, trial: queue.fail(trial, "diverged"),
    "enqueue": lambda queue, _: queue.enqueue({}, key="another-s0"),
    "reclaim": lambda queue, _: queue.reclaim(),
    "reorder": lambda queue, _: queue.reorder(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_ctrl_c_within_a_statement_leaves_the_database_free_and_the_change_whole(
    tmp_path: Path, name: str
) -> None:
    def begin(study: str) -> tuple[TrialQueue, Trial]:
        queue = stack.enter_context(open_queue(url, study, ["minimize"]))
        queue.enqueue({}, key="codec-s0")
        trial = queue.ask()
        queue.enqueue({}, key="first-s0")
        queue.enqueue({}, key="second-s0", begun=True)
        queue._reclaimed = -1.0  # due again
        return queue, trial

    def interrupt(*_: object) -> None:
        if not interrupted:
            interrupted.append(True)
            signal.raise_signal(signal.SIGINT)

    def left(study: str) -> list[tuple[str, dict[str, object]]]:
        with open_queue(url, study) as queue:
            return [(t.state, t.model_dump(exclude={"owner"})) for t in queue.trials()]

    url, interrupted = sqlite_url(tmp_path / "study.db"), list[bool]()
    with ExitStack() as stack:
        queue, trial = begin("whole")
        OPERATIONS[name](queue, trial)
        queue, trial = begin("interrupted")
        sqlalchemy.event.listen(queue.storage.engine, "before_cursor_execute", interrupt)
        with pytest.raises(KeyboardInterrupt):
            OPERATIONS[name](queue, trial)
        with sqlite3.connect(tmp_path / "study.db", timeout=0) as connection:
            connection.execute("begin immediate")  # another worker need not wait
            connection.rollback()
        assert left("interrupted") == left("whole")


def test_what_a_run_left_behind_in_this_process_is_free_once_its_queue_is_closed(
    tmp_path: Path,
) -> None:
    url = sqlite_url(tmp_path / "study.db")
    with open_queue(url, "toy", ["minimize"]) as queue:
        queue.enqueue({}, key="codec-s0")
        assert queue.claim(queue.ask(), "codec-s0")
        with open_queue(url, "toy") as other:
            other.reclaim()
            assert [t.state for t in other.trials()] == ["RUNNING"]
    # As in a notebook, whose process goes on after a Ctrl-C.
    with open_queue(url, "toy") as queue:
        queue.reclaim()
        assert [t.state for t in queue.trials()] == ["FAIL", "WAITING"]
        assert queue.claim(queue.ask(), "codec-s0")

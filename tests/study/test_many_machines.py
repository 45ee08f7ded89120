"""Workers that share a server or a cluster: every variant once, whoever is killed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from surrogate import SPACE, Surrogate, trained

from tcm_lab.cli import main
from tcm_lab.errors import LabError
from tcm_lab.study.prepare import prepare
from tcm_lab.study.result import open_result
from tcm_lab.study.run import run_study
from tcm_lab.study.slurm import submit_study
from tcm_lab.study.space import parse_space

GRID = """
name: toy
base: tcm-nano
axes:
  split: {path: "g_*.split", choices: [0.0, 0.5, 1.0]}
  slices: {path: entropy_model.slices, choices: [1, 2, 4, 8]}
  window: {path: "g_*.window_size", choices: [4, 8]}
sampler: grid
budget: {recipe: scratch, steps: 40, rate_levels: 4}
"""


def _binaries() -> Path | None:
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "pg_ctl").exists()), None)


@pytest.fixture
def server() -> Iterator[str]:
    """Start a private PostgreSQL that only a socket in its own folder reaches."""
    pytest.importorskip("psycopg", reason="the postgres extra is not installed")
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's server programs are not installed (Debian: postgresql)")
    # A socket's path must be short, and whoever runs the server must get there.
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    as_user: dict[str, int] = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        known = {user.pw_name: user.pw_uid for user in pwd.getpwall()}
        as_user = {"user": known.get("postgres", 65534)}
        os.chown(folder, as_user["user"], -1)

    def call(*words: str) -> None:
        subprocess.run(
            [str(binaries / words[0]), *words[1:]],
            check=True, cwd=folder, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, **as_user,
        )  # fmt: skip

    data = str(folder / "data")
    call("initdb", "-D", data, "-U", "lab", "-A", "trust", "--no-sync")
    options = f"-c listen_addresses='' -k {folder} -c fsync=off -c timezone=UTC"
    call("pg_ctl", "-D", data, "-w", "-t", "600", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql+psycopg://lab@/postgres?host={folder}"
    finally:
        call("pg_ctl", "-D", data, "-t", "600", "-m", "immediate", "stop")
        shutil.rmtree(folder)


def test_four_workers_on_postgresql_finish_every_variant_once_though_two_are_killed(
    tmp_path: Path, server: str
) -> None:
    trainer = Surrogate(
        tmp_path / "log",
        seconds=0.1,
        kill_on=("split=0.5 slices=8 window=4", "split=1 slices=2 window=8"),
    )
    assert main(["study", "init", "--storage", server]) == 0
    space = parse_space(GRID, "toy.yaml", None)
    result = run_study(prepare(space, out=tmp_path / "toy", storage=server, trainer=trainer), 4)
    names = [name for name, _, _ in trained(tmp_path / "log")]
    assert len(names) == len(set(names)) == 24
    assert len({record.fingerprint for record in result.records}) == len(result.records) == 24
    assert len(list(tmp_path.glob("log.*"))) == 2  # both were killed
    again = open_result(tmp_path / "toy", server)
    assert again.records == result.records


def test_a_job_of_a_cluster_is_a_worker_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="the slurm extra is not installed")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    space = parse_space(SPACE, "toy.yaml", None)
    context = prepare(space, out=tmp_path / "toy", trainer=Surrogate(tmp_path / "log"))
    (job,) = submit_study(context, 1, ["cluster=local", "timeout_min=30"])
    job.result()
    assert len(open_result(tmp_path / "toy").records) == 5


@pytest.mark.parametrize("option", ["timeout_min=2h", "cpus_per_task=4.5", "partitoin=gpu"])
def test_an_option_that_submitit_refuses_is_named_before_anything_is_written(
    tmp_path: Path, option: str
) -> None:
    pytest.importorskip("submitit", reason="the slurm extra is not installed")
    context = prepare(parse_space(SPACE, "toy.yaml", None), out=tmp_path / "toy")
    with pytest.raises(LabError, match=r"^slurm option: .*[^.]\. Correct it, or leave it out\.$"):
        submit_study(context, 1, ["cluster=local", option])
    assert not (tmp_path / "toy" / "study.db").exists()


@pytest.mark.parametrize("workers", [0, -1])
def test_a_cluster_gets_one_worker_at_least(tmp_path: Path, workers: int) -> None:
    context = prepare(parse_space(SPACE, "toy.yaml", None), out=tmp_path / "toy")
    with pytest.raises(LabError, match=f"workers = {workers}: must be at least 1"):
        submit_study(context, workers)
    assert not (tmp_path / "toy").exists()


def test_a_cluster_that_is_not_there_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="the slurm extra is not installed")
    space = parse_space(SPACE, "toy.yaml", None)
    monkeypatch.setattr("tcm_lab.study.slurm.fill_queue", lambda context: None)
    context = prepare(space, out=tmp_path, storage="postgresql+psycopg://lab@server/tcm")
    with pytest.raises(LabError, match=r"launcher slurm: .*sbatch"):
        submit_study(context)
    with pytest.raises(LabError, match="slurm option 'gpu': write name=value"):
        submit_study(context, 1, ["gpu"])
    with pytest.raises(LabError, match=r"SQLite file can't be shared .* Give --storage postgresql"):
        submit_study(prepare(space, out=tmp_path))

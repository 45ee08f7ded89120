"""Everything that is checked, made or measured here, by name: ``nox -l`` lists it.

Each session runs in the environment that nox itself runs in when called with ``--no-venv`` (as the
README's test command does), or in one of its own.
"""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "tests"]
nox.options.reuse_existing_virtualenvs = True
nox.needs_version = ">=2024.10"

#: Two processes whose threads would otherwise spin while they wait for each other's.
PARALLEL = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
WAITS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
#: What another Python or another library may break: annotations, torch, NumPy, files.
FAST = (
    "tests/test_public_surface.py", "tests/test_errors.py", "tests/test_stats.py", "tests/data",
    "tests/codec/test_coding.py", "tests/complexity/test_layers.py",
    "tests/complexity/test_counters.py::test_no_activation_of_torch_is_taken_for_a_product",
    "tests/complexity/test_record.py", "tests/evaluation",
    "tests/portable/test_streams.py::test_committed_files_decode_for_ever",
    "tests/reporting/test_html.py",
    "tests/reporting/test_plots.py", "tests/reporting/test_tables.py",
    "tests/study/test_space.py", "tests/training/test_objective.py",
    "tests/training/test_recipe.py", "tests/utils",
)  # fmt: skip


def _install(session: nox.Session, *extras: str) -> None:
    if session.virtualenv.is_sandboxed:
        session.install("-e", f".[{','.join(('dev', *extras))}]")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, types, and the layers of packages."""
    _install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests; arguments go to pytest."""
    _install(session)
    session.run("python", "-m", "pytest", *PARALLEL, *session.posargs, env=WAITS)


@nox.session
def fast(session: nox.Session) -> None:
    """A minute of tests of what another Python, torch or NumPy may break."""
    if session.virtualenv.is_sandboxed:
        session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *PARALLEL, *(session.posargs or FAST), env=WAITS)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel, install it elsewhere, and run every command there in an empty folder."""
    _install(session)
    session.run("python", "tests/installed/wheel.py")


@nox.session
def coverage(session: nox.Session) -> None:
    """All tests, and which lines and branches of the package they reach."""
    _install(session)
    session.run("python", "-m", "pytest", "--cov", "--cov-report=term-missing:skip-covered")


@nox.session
def mutants(session: nox.Session) -> None:
    """Which share of small faults of the core the tests notice; half an hour and more."""
    _install(session, "mutants")
    for step in ("cover", "judge", "report"):
        session.run("python", "tests/mutation/mutants.py", step)


@nox.session
def notebooks(session: nox.Session) -> None:
    """Execute every notebook."""
    _install(session, "notebooks")
    session.run("python", "-m", "pytest", "--nbmake", "notebooks", *session.posargs)


@nox.session
def study(session: nox.Session) -> None:
    """The main job: the packaged study of the convolution/transformer split."""
    _install(session)
    space = session.posargs or ["--space", "configs/split.yaml"]
    session.run("python", "-m", "tcm_lab.study", *space)


@nox.session
def tables(session: nox.Session) -> None:
    """Make the complexity tables under studies/ again; they must come out as they are."""
    _install(session)
    session.run("python", "studies/make_tables.py")
    session.run("git", "diff", "--exit-code", "--stat", "--", "studies", external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site in docs-html/; a warning ends it."""
    _install(session)
    session.run("python", "tests/docs/build.py", *(session.posargs or ["docs-html"]))


@nox.session
def bench(session: nox.Session) -> None:
    """Speed against a plain baseline, as ratios in one run."""
    _install(session)
    session.run("python", "-m", "pytest", "tests/benchmarks", "--benchmark-only", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """The tests of what runs on a GPU; tests/gpu/run_all.py adds times, pace and a study."""
    _install(session)
    words = ("tests/gpu", "tests/portable/test_streams.py", "-k", "gpu")
    session.run("python", "-m", "pytest", *words, *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Tens of thousands of spoilt files, and a study whose workers are killed; half an hour."""
    _install(session)
    for script, count in (
        ("tests/fuzz/fuzz_images.py", 20_000),
        ("tests/codec/fuzzing.py", 20_000),
        ("tests/fuzz/fuzz_yaml.py", 5_000),
        ("tests/fuzz/fuzz_checkpoints.py", 2_000),
        ("tests/study/kills.py", 100),
    ):
        session.run("python", script, str(count))

"""Sessions that check, build or measure the project; ``nox -l`` lists them.

With ``--no-venv`` (as in the README's test command), each session runs in the environment of nox
itself; otherwise each has its own.
"""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "tests"]
nox.options.reuse_existing_virtualenvs = True
nox.needs_version = ">=2024.10"

#: Two processes, whose threads must not spin while they wait for each other.
PARALLEL = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
WAITS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
#: Tests of what a different Python or library version may break: annotations, torch, NumPy, files.
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
    """Check style, types and the layering of packages."""
    _install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests; arguments go to pytest."""
    _install(session)
    session.run("python", "-m", "pytest", *PARALLEL, *session.posargs, env=WAITS)


@nox.session
def fast(session: nox.Session) -> None:
    """Run a minute of tests that a different Python, torch or NumPy may break."""
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
    """Run all tests with line and branch coverage of the package."""
    _install(session)
    session.run("python", "-m", "pytest", "--cov", "--cov-report=term-missing:skip-covered")


@nox.session
def mutants(session: nox.Session) -> None:
    """Measure the share of small faults in the core that the tests detect; half an hour or more."""
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
    """Run the main job: the packaged study of the convolution/transformer split."""
    _install(session)
    space = session.posargs or ["--space", "configs/split.yaml"]
    session.run("python", "-m", "tcm_lab.study", *space)


@nox.session
def tables(session: nox.Session) -> None:
    """Regenerate the tables under studies/; they must match the committed ones."""
    _install(session)
    session.run("python", "studies/make_tables.py")
    session.run("git", "diff", "--exit-code", "--stat", "--", "studies", external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site in docs-html/; any warning is an error."""
    _install(session)
    session.run("python", "tests/docs/build.py", *(session.posargs or ["docs-html"]))


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed against a plain baseline, as ratios within one run."""
    _install(session)
    session.run("python", "-m", "pytest", "tests/benchmarks", "--benchmark-only", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """Run the GPU tests; tests/gpu/run_all.py adds times, training throughput and a study."""
    _install(session)
    selection = ("tests/gpu", "tests/portable/test_streams.py", "-k", "gpu")
    session.run("python", "-m", "pytest", *selection, *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Try tens of thousands of corrupted files and a study with killed workers; half an hour."""
    _install(session)
    for script, count in (
        ("tests/fuzz/fuzz_images.py", 20_000),
        ("tests/codec/fuzzing.py", 20_000),
        ("tests/fuzz/fuzz_yaml.py", 5_000),
        ("tests/fuzz/fuzz_checkpoints.py", 2_000),
        ("tests/study/kills.py", 100),
    ):
        session.run("python", script, str(count))

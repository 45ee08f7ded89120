"""Mutation testing of the core: a random sample of cosmic-ray's mutants.

Each mutant is one small change to one file. The tests that cover its lines run on it, fastest
first; the first one to fail kills it. Every mutant first gets a minute and a half of tests; what
survives them gets more. Everything happens in copies of the tree, so no file is changed here.
``nox -s mutants`` runs the three steps in order. A second call resumes where the first one stopped
and runs the current tests on the survivors. If a file has changed, all of its mutants are judged
again.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coverage import CoverageData

ROOT = Path(__file__).parents[2]
PARTS = {
    "codec": ("codec",),
    "complexity": ("complexity",),
    "evaluation": ("evaluation",),
    "training's start": ("training/start", "training/linear_start", "training/wavelet_start"),
    "estimators": ("study/estimators", "training/supernet", "training/stage_swap"),
}
"""The core: its parts, and the beginnings of their files' paths."""
RUN = ROOT / "runs" / "mutants"
DURATIONS, COVERAGE, RESULTS = RUN / "durations.xml", RUN / "coverage", RUN / "results.jsonl"
# A union of types in an annotation looks like arithmetic; mutating it has no effect.
LEFT_OUT = ("core/ReplaceBinaryOperator_BitOr_",)
_LIMIT_S = 60.0  # in addition to three times the duration of the tests without a mutant
_HEAVY = (
    "fvcore.nn",
    "pandas",
    "pytest",
    "scipy.stats",
    "torch",
)
_BROKE = 99  # the tests could not run
_PASSES_S = (90.0, 600.0)  # tests of a mutant in each pass, by their duration without a mutant


def cover() -> None:
    """Run the test suite once, recording the duration and line coverage of each test."""
    RUN.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "pytest", "-q", "--cov=tcm_lab", "--cov-context=test",
        "--cov-report=term:skip-covered", f"--junitxml={DURATIONS}",
    ]  # fmt: skip
    subprocess.run(
        command, cwd=ROOT, check=True, env={**os.environ, "COVERAGE_FILE": str(COVERAGE)}
    )


def mutants(count: int, seed: int) -> list[dict[str, Any]]:
    """Draw random places in the code of the core, and one mutant of each."""
    from cosmic_ray.commands.init import _all_work_items  # `init` alone would write a database

    files = [path for path in sorted((ROOT / "tcm_lab").rglob("*.py")) if _part(path)]
    places: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for path in files:
        code = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for item in _all_work_items([path], {}):
            (mutation,) = item.mutations
            operator = mutation.operator_name
            if operator.startswith(LEFT_OUT):
                continue
            # An operator has a dozen replacements; as separate places they would dominate.
            family = operator.split("_")[0]
            place = (str(path.relative_to(ROOT)), mutation.start_pos, mutation.end_pos, family)
            change = {
                "file": place[0],
                "code": code,
                "operator": operator,
                "occurrence": mutation.occurrence,
                "lines": [mutation.start_pos[0], mutation.end_pos[0]],
            }
            places.setdefault(place, []).append(change)
    generator = random.Random(seed)
    drawn = generator.sample(list(places.values()), min(count, len(places)))
    return [generator.choice(changes) for changes in drawn]


def _part(path: Path) -> str | None:
    """Return the part of the core that a file belongs to, if any."""
    name = str((ROOT / path).relative_to(ROOT / "tcm_lab"))
    return next((part for part, starts in PARTS.items() if name.startswith(starts)), None)


def judge(count: int, seed: int, jobs: int) -> None:
    """Run the tests of each mutant, with ``jobs`` processes, and record the outcomes."""
    drawn, fresh = mutants(count, seed), multiprocessing.get_context("spawn")
    for most_s in _PASSES_S:
        known = _known()
        todo = [each for each in drawn if _is_open(known.get(_identity(each)), most_s)]
        judges = [
            fresh.Process(target=_judge, args=(todo[job::jobs], most_s)) for job in range(jobs)
        ]
        for each in judges:
            each.start()
        for each in judges:
            each.join()
        if any(each.exitcode for each in judges):
            raise SystemExit(1)


def _is_open(result: dict[str, Any] | None, most_s: float) -> bool:
    """Return whether a mutant with this result, if any, belongs in a pass of so many seconds."""
    if result is None:
        return True
    return result["outcome"] not in ("killed", "not made") and most_s == _PASSES_S[-1]


def _judge(todo: list[dict[str, Any]], most_s: float) -> None:
    """Judge one share of the mutants in a separate copy of the tree."""
    from coverage import CoverageData

    data = CoverageData(str(COVERAGE))
    data.read()
    durations = dict(_durations())
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        files = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        for name in files.rstrip("\0").split("\0"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
        _settle(tree)
        for number, mutant in enumerate(todo, 1):
            tests = tests_of(mutant, data, durations, most_s)
            expected_s = sum(durations.get(name, 1.0) for name in tests)
            if number == 1 and _run(tests, tree.parent / "output.txt", _LIMIT_S + 3 * expected_s):
                raise SystemExit(f"without a mutant: {(tree.parent / 'output.txt').read_text()}")
            if tests:
                result = mutant | _outcome(tree, mutant, tests, expected_s)
            else:
                result = mutant | {"outcome": "no test"}
            with RESULTS.open("a") as results:
                results.write(json.dumps(result) + "\n")
            print(f"{number}/{len(todo)} {result['outcome']}: {_name(mutant)}", flush=True)


def tests_of(
    mutant: dict[str, Any], data: CoverageData, durations: dict[str, float], most_s: float
) -> list[str]:
    """Return tests that cover a mutant's lines, the fastest first.

    Those of the same package may last ``most_s`` seconds together, those of others a third of it.
    Lines that run on import belong to no test. For them, every test that covers any line of the
    file counts.
    """
    contexts = data.contexts_by_lineno(str(ROOT / mutant["file"]))
    first, last = mutant["lines"]
    ran = {c for line in range(first, last + 1) for c in contexts.get(line, ())}
    if not any(ran):
        ran = {context for there in contexts.values() for context in there}
    names = {context.rpartition("|")[0] for context in ran if context}
    own_tests = f"tests/{Path(mutant['file']).parts[1]}/"
    chosen: list[str] = []
    left_s = {True: most_s, False: most_s / 3}
    for name in sorted(names, key=lambda name: durations.get(name, 1.0)):
        is_own = name.startswith(own_tests)
        left_s[is_own] -= durations.get(name, 1.0)
        if left_s[is_own] >= 0 or not chosen:
            chosen.append(name)
    return chosen


def _settle(tree: Path) -> None:
    """Prepare this process so that its forks test the tree: import all but the package."""
    for module in _HEAVY:
        importlib.import_module(module)
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    os.environ["PYTHONPATH"] = str(tree)  # for the commands that tests start


def _outcome(
    tree: Path, mutant: dict[str, Any], tests: list[str], expected_s: float
) -> dict[str, Any]:
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    path = tree / mutant["file"]
    code = path.read_text()
    try:
        mutated = mutate_code(code, get_operator(mutant["operator"])(), mutant["occurrence"])
    except AttributeError:  # raised by cosmic-ray for an exception named with its module
        mutated = None
    if mutated is None:
        return {"outcome": "not made"}
    output = tree.parent / "output.txt"
    # Python's cache would take a mutant of the same length in the same second for the original.
    later = path.stat().st_mtime + 2
    path.write_text(mutated)
    os.utime(path, (later, later))
    try:
        status = _run(tests, output, _LIMIT_S + 3 * expected_s)
    finally:
        path.write_text(code)
        os.utime(path, (later + 2, later + 2))
    printed = output.read_text(errors="replace")
    if status == _BROKE:
        raise RuntimeError(printed)
    changed = difflib.unified_diff(code.splitlines(), mutated.splitlines(), n=2, lineterm="")
    return {
        "outcome": "survived" if status == 0 else "killed",
        "tests": len(tests),
        "diff": "\n".join(changed),
        "output": printed[-1500:],
    }


def _run(tests: list[str], output: Path, limit_s: float) -> int | None:
    """Run tests in a fork until one fails; return the exit status, or None after a timeout."""
    child = os.fork()
    if child == 0:
        os.setsid()
        with output.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        import pytest

        status = _BROKE
        try:
            status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def report(count: int, seed: int) -> str:
    """Return the share of killed mutants by part of the core, and the survivors."""
    results = _known()
    drawn = [results.get(_identity(mutant)) for mutant in mutants(count, seed)]
    known = [mutant for mutant in drawn if mutant is not None and mutant["outcome"] != "not made"]
    lines = []
    for part in (*PARTS, "all"):
        own = [mutant for mutant in known if part in (_part(Path(mutant["file"])), "all")]
        killed = sum(mutant["outcome"] == "killed" for mutant in own)
        if own:
            lines.append(f"{part}: {killed} of {len(own)} mutants killed ({killed / len(own):.0%})")
    survived = [mutant for mutant in known if mutant["outcome"] != "killed"]
    return "\n".join(
        [*lines, *(f"\n{mutant['outcome']}\n{mutant.get('diff')}" for mutant in survived)]
    )


def _durations() -> Iterator[tuple[str, float]]:
    for case in ElementTree.parse(DURATIONS).iter("testcase"):
        file = case.attrib["classname"].replace(".", "/") + ".py"
        yield f"{file}::{case.attrib['name']}", float(case.attrib["time"])


def _known() -> dict[tuple[str, str], dict[str, Any]]:
    """Return the latest result of each mutant."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {_identity(mutant): mutant for mutant in map(json.loads, lines)}


def _identity(mutant: dict[str, Any]) -> tuple[str, str]:
    """Return the name of a mutant and the digest of the original code."""
    return _name(mutant), mutant["code"]


def _name(mutant: dict[str, Any]) -> str:
    return f"{mutant['file']}:{mutant['lines'][0]} {mutant['operator']} {mutant['occurrence']}"


def main() -> None:
    """Cover, judge or report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["cover", "judge", "report"])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    if args.step == "cover":
        cover()
    elif args.step == "judge":
        judge(args.count, args.seed, args.jobs)
    else:
        print(report(args.count, args.seed))


if __name__ == "__main__":
    main()

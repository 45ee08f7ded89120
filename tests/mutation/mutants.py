"""How many small faults the tests notice: a random sample of cosmic-ray's mutants of the core.

Each mutant is one small change of one file. It is shown to the tests that ran its lines, the
quickest first, and counts as killed by the first that fails. ``nox -s mutants`` calls the three
steps one after the other; a second call goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coverage import CoverageData

ROOT = Path(__file__).parents[2]
ROOMS = ("codec", "complexity", "evaluation")
DURATIONS = ROOT / ".mutants-durations.xml"
COVERAGE = ROOT / ".mutants-coverage"
# The union of two types in an annotation looks like arithmetic; changing it changes nothing.
LEFT_OUT = ("core/ReplaceBinaryOperator_BitOr_",)
_LEAST_S, _PER_MUTANT_S = 60.0, 45.0


def cover() -> None:
    """Run the suite once, and note which test runs which lines, and for how long."""
    command = [
        sys.executable, "-m", "pytest", "-q", "--cov=tcm_lab", "--cov-context=test",
        "--cov-report=", f"--junitxml={DURATIONS}",
    ]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True)
    shutil.move(ROOT / ".coverage", COVERAGE)


def mutants(count: int, seed: int) -> list[dict[str, Any]]:
    """Draw mutants of the three rooms: places in the code at random, and one change of each."""
    from cosmic_ray.commands.init import _all_work_items  # `init` alone would write a database

    files = [path for room in ROOMS for path in sorted((ROOT / "tcm_lab" / room).rglob("*.py"))]
    places: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for path in files:
        for item in _all_work_items([path], {}):
            (mutation,) = item.mutations
            operator = mutation.operator_name
            if operator.startswith(LEFT_OUT):
                continue
            # An operator has a dozen replacements: they are one place, or would crowd out the rest.
            family = operator.split("_")[0]
            place = (str(path.relative_to(ROOT)), mutation.start_pos, mutation.end_pos, family)
            change = {
                "file": place[0],
                "operator": operator,
                "occurrence": mutation.occurrence,
                "lines": [mutation.start_pos[0], mutation.end_pos[0]],
            }
            places.setdefault(place, []).append(change)
    generator = random.Random(seed)
    drawn = generator.sample(list(places.values()), min(count, len(places)))
    return [generator.choice(changes) for changes in drawn]


def judge(todo: list[dict[str, Any]], results: Path) -> None:
    """Show each mutant to its tests and append what became of it to ``results``."""
    from coverage import CoverageData

    known = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )
    judged = {_name(one) for one in known}
    data = CoverageData(str(COVERAGE))
    data.read()
    durations = dict(_durations())
    todo = [one for one in todo if _name(one) not in judged]
    for number, one in enumerate(todo, 1):
        told = one | _outcome(one, tests_of(one, data, durations), durations)
        with results.open("a") as file:
            file.write(json.dumps(told) + "\n")
        print(f"{number}/{len(todo)} {told['outcome']}: {_name(one)}", flush=True)


def tests_of(one: dict[str, Any], data: CoverageData, durations: dict[str, float]) -> list[str]:
    """Return the tests that ran a mutant's lines, the quickest first, as time allows.

    Lines that run on import belong to no test: then any test counts that ran something of the file.
    """
    contexts = data.contexts_by_lineno(str(ROOT / one["file"]))
    first, last = one["lines"]
    ran = {c for line in range(first, last + 1) for c in contexts.get(line, ())}
    if not any(ran):
        ran = {context for there in contexts.values() for context in there}
    names = {context.rpartition("|")[0] for context in ran if context}
    chosen, seconds = [], 0.0
    for name in sorted(names, key=lambda name: durations.get(name, 1.0)):
        seconds += durations.get(name, 1.0)
        if chosen and seconds > _PER_MUTANT_S:
            break
        chosen.append(name)
    return chosen


def _outcome(one: dict[str, Any], tests: list[str], durations: dict[str, float]) -> dict[str, Any]:
    from cosmic_ray.mutating import mutate_and_test
    from cosmic_ray.work_item import MutationSpec

    if not tests:
        return {"outcome": "no test", "tests": 0}
    first, last = one["lines"]
    mutation = MutationSpec(
        ROOT / one["file"], one["operator"], one["occurrence"], (first, 0), (last, 1000)
    )
    limit = _LEAST_S + 3 * sum(durations.get(name, 1.0) for name in tests)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as names:
        names.write("\n".join(tests))
        names.flush()
        command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider @{names.name}"
        result = mutate_and_test((mutation,), command, limit)
    outcome = result.test_outcome.value if result.test_outcome else result.worker_outcome.value
    kept = {"outcome": outcome, "tests": len(tests), "diff": result.diff}
    return kept if outcome == "killed" else kept | {"output": (result.output or "")[-2000:]}


def report(results: Path) -> str:
    """Say which share was killed, room by room, and show what survived."""
    known = [json.loads(line) for line in results.read_text().splitlines()]
    lines = []
    for room in (*ROOMS, ""):
        those = [one for one in known if one["file"].startswith(f"tcm_lab/{room}")]
        killed = sum(one["outcome"] == "killed" for one in those)
        if those:
            share = f"{killed} of {len(those)} mutants killed ({killed / len(those):.0%})"
            lines.append(f"{room or 'all'}: {share}")
    survived = [one for one in known if one["outcome"] != "killed"]
    return "\n".join([*lines, *(f"\n{one['outcome']}\n{one.get('diff')}" for one in survived)])


def _durations() -> Iterator[tuple[str, float]]:
    for case in ElementTree.parse(DURATIONS).iter("testcase"):
        file = case.attrib["classname"].replace(".", "/") + ".py"
        yield f"{file}::{case.attrib['name']}", float(case.attrib["time"])


def _name(one: dict[str, Any]) -> str:
    return f"{one['file']}:{one['lines'][0]} {one['operator']} {one['occurrence']}"


def main() -> None:
    """Cover, judge or report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["cover", "judge", "report"])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", default="1/1", help="which share, such as 1/2, of several trees")
    parser.add_argument("--results", type=Path, default=ROOT / ".mutants.jsonl")
    given = parser.parse_args()
    if given.step == "cover":
        cover()
    elif given.step == "judge":
        part, parts = map(int, given.part.split("/"))
        judge(mutants(given.count, given.seed)[part - 1 :: parts], given.results)
    else:
        print(report(given.results))


if __name__ == "__main__":
    main()

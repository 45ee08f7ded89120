"""The study of how training starts: when a course of known shape reaches a cost."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import pytest
from scripts import script

SCRIPT = Path(__file__).parents[2] / "studies" / "start" / "make.py"
STEPS = tuple(10 * 1.2**i for i in range(60))


@pytest.fixture(scope="module")
def start() -> ModuleType:
    return script(SCRIPT)


def course(start: ModuleType, name: str, slower: float) -> object:
    """Return one that falls by 0.5 for every factor e of its steps, half a second each."""
    return start.Course(
        variant=name,
        base="tcm-nano",
        data="none",
        steps=STEPS,
        cpu_s=[0.5 * steps for steps in STEPS],
        log_cost=[2 - 0.5 * math.log(steps / slower) for steps in STEPS],
    )


def test_a_course_tells_when_it_first_reached_a_cost(start: ModuleType) -> None:
    found = course(start, "all", 1)
    assert found.until(2 - 0.5 * math.log(123)) == pytest.approx((123, 61.5))
    assert found.until(2) == (STEPS[0], 0.5 * STEPS[0])  # it began below
    assert found.until(-10) is None
    worse_later = found.model_copy(update={"log_cost": (*found.log_cost[:-1], 5.0)})
    assert worse_later.until(2 - 0.5 * math.log(123)) == pytest.approx((123, 61.5))


def test_the_table_of_steps_holds_what_was_put_in(start: ModuleType) -> None:
    slower = dict(zip(start.FOLLOWED, (30.0, 10.0, 1.0), strict=True))
    table = start.steps_table([course(start, name, each) for name, each in slower.items()])
    costs = [row.values["cost"] for row in table.rows]
    assert costs == sorted(costs, reverse=True)
    ends = [2 - 0.5 * math.log(STEPS[-1] / each) for each in slower.values()]
    reached = [2 - 0.5 * math.log(after) for after in start.REACHED_AFTER]
    assert costs == pytest.approx(sorted([*ends, *reached], reverse=True))
    for cost, row in zip(costs, table.rows, strict=True):
        for name, factor in slower.items():
            steps = factor * math.exp((2 - cost) / 0.5)
            if steps <= STEPS[-1] * (1 + 1e-9):
                assert row.values[f"steps {name}"] == pytest.approx(steps, rel=1e-6)
                assert row.values[f"cpu_s {name}"] == pytest.approx(0.5 * steps, rel=1e-6)
            else:
                assert f"steps {name}" not in row.values

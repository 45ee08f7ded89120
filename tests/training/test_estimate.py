"""How long a training will take, on a clock that only trainings move."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tcm_lab.codec import build
from tcm_lab.data import open_images
from tcm_lab.training import Recipe, get_recipe, measure_pace

SET_UP_S, START_S, PHASE_STEP_S = 7.0, 20.0, 0.25


@pytest.mark.parametrize("step_s", [0.01, 2.0])
@pytest.mark.parametrize("linear_steps", [0, 150])
def test_what_comes_once_is_not_taken_for_steps(
    monkeypatch: pytest.MonkeyPatch, step_s: float, linear_steps: int
) -> None:
    clock = SimpleNamespace(now=0.0, steps=0)

    def train(codec: Any, recipe: Recipe, *_: Any, **__: Any) -> None:
        started = START_S + recipe.linear_steps * PHASE_STEP_S if recipe.linear_steps else 0.0
        clock.now += SET_UP_S + started + recipe.steps * step_s
        clock.steps += recipe.steps

    monkeypatch.setattr("tcm_lab.training.estimate.train", train)
    ticking = SimpleNamespace(perf_counter=lambda: clock.now)
    monkeypatch.setattr("tcm_lab.training.estimate.time", ticking)
    recipe = get_recipe("minute" if linear_steps else "scratch").changed(crop=64, batch=1)
    if linear_steps:
        recipe = recipe.changed(linear_steps=linear_steps)
    pace = measure_pace(
        lambda: build("tcm-nano", {"rate_levels": 4}), recipe, open_images(None, "train")
    )
    assert pace.step_s == pytest.approx(step_s)
    phase_s = SET_UP_S + START_S + linear_steps * PHASE_STEP_S + step_s
    assert pace.start_s == pytest.approx(phase_s if linear_steps else 0)
    assert clock.steps <= 80

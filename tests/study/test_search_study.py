"""The sampler against a front that is known: it needs few evaluations, and fewer than chance."""

from __future__ import annotations

import importlib.util
import random
import statistics
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tcm_lab.study.space import load_space

FOLDER = Path(__file__).parents[2] / "studies" / "search"


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("search_study", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["search_study"] = module
    spec.loader.exec_module(module)
    return module


def test_the_published_medians_follow_from_the_records(study: ModuleType) -> None:
    histories = study.read_rows((FOLDER / "records.csv").read_text())
    text = (FOLDER / "README.md").read_text().replace("*", "")
    needed = {name: [study.reached(run) for run in runs] for name, runs in histories.items()}
    for values in needed.values():
        assert len(values) == 10
        low, middle, high = study.quartiles(values)
        assert f"{middle:g} ({low:g} to {high:g}) | {max(values)} |" in text
    assert max(needed["tpe"]) < min(needed["random"])
    assert max(needed["tpe"]) <= 450  # a tenth of the space


def test_the_sampler_finds_a_known_front_before_chance_does(study: ModuleType) -> None:
    space = load_space(FOLDER / "space.yaml")
    fewer = {
        "split_outer": (0.0, 0.5, 1.0),
        "split_middle": (0.0, 0.5, 1.0),
        "window": (4, 8),
        "squeeze": (16,),
    }
    axes = {
        name: axis.model_copy(update={"choices": fewer.get(name, axis.choices)})
        for name, axis in space.axes.items()
    }
    space = space.model_copy(update={"axes": axes})
    known = study.Known(space)
    assert len(known.points) == 360
    found = study.search(study.context_of(space, "tpe", 0, 50), known, 50)
    assert len(set(found)) == 50
    by_search = study.reached(known.shares(found))
    every = list(known.points.values())
    by_chance = [
        study.reached(known.shares(random.Random(seed).sample(every, len(every))))
        for seed in range(20)
    ]
    assert by_search is not None
    assert by_search < statistics.quantiles(by_chance, n=4)[0]

"""No number that a user writes is without bounds: every field of every model is tried."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from tcm_lab._utils import Frozen
from tcm_lab.analysis import ErfOptions
from tcm_lab.blocks import ATTENTIONS, BLOCKS, RESAMPLERS
from tcm_lab.codec import ENTROPY_MODELS, load_config
from tcm_lab.complexity import TimingOptions
from tcm_lab.errors import ConfigError
from tcm_lab.study.space import parse_space
from tcm_lab.training import get_recipe

BEYOND = (math.inf, -math.inf, math.nan, 10**30, -(10**30))
SPACE = """
name: bounds
base: tcm-nano
axes:
  g_a.split: [0.25, 0.5]
  entropy_model.support: {kind: integer, low: 0, high: 4}
  g_s.split: {kind: float, low: 0, high: 1, step: 0.25}
constraints: {kmacs_per_px: 1000}
soft_constraints: {psnr_db: 20}
budget: {trials: 2, rungs: [0.5], recipe: scratch}
"""


def layers() -> Iterator[Frozen]:
    """Yield a configuration of every registered layer and entropy model that needs no argument."""
    for registry in (ATTENTIONS, BLOCKS, RESAMPLERS, ENTROPY_MODELS):
        for name in registry:
            try:
                yield registry.parse(name)
            except ConfigError:
                continue  # it needs an argument; a preset below has it


def roots() -> list[Frozen]:
    presets = ("tcm-nano", "tcm-small", "stf", "dcae-nano", "hpcm-nano", "mlicpp-nano", "tcm-auxt")
    return [
        *map(load_config, presets),
        *layers(),
        get_recipe("published"),
        get_recipe("minute").changed(entropy_lr=1e-3, lr_drops=(0.5,)),
        parse_space(SPACE, "space.yaml", None),
        TimingOptions(threads=1),
        ErfOptions(channel=0, at=(0, 0), side=64, rate=0.0),
    ]


def numbers(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the model's and field's name, and the path, of every number below a model."""
    if isinstance(node, BaseModel):
        for name, field in type(node).model_fields.items():
            value = getattr(node, name)
            label = f"{type(node).__name__}.{name}"
            if value is None and _takes_number(field.annotation):
                yield label, (*path, name)
            for inner, place in numbers(value, (*path, name)):
                yield inner or label, place
    elif isinstance(node, dict | list | tuple):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from numbers(value, (*path, key))
    elif isinstance(node, int | float) and not isinstance(node, bool):
        yield "", path


def _takes_number(annotation: Any) -> bool:
    return annotation in (int, float) or any(map(_takes_number, get_args(annotation)))


def fields() -> dict[str, tuple[Frozen, tuple[Any, ...]]]:
    """Return every field that holds numbers, once, with a model that has it and its path there."""
    found: dict[str, tuple[Frozen, tuple[Any, ...]]] = {}
    for root in roots():
        for label, path in numbers(root):
            found.setdefault(label, (root, path))
    return found


FIELDS = fields()


def test_the_walk_reaches_every_kind_of_model() -> None:
    models = {label.partition(".")[0] for label in FIELDS}
    assert {"VariantConfig", "StageConfig", "Recipe", "Budget", "IntegerAxis", "Space"} <= models
    assert {"TimingOptions", "ErfOptions", "CategoricalAxis"} <= models
    assert len(models) > 25
    assert len(FIELDS) > 90


@pytest.mark.parametrize("label", FIELDS)
def test_a_number_beyond_all_bounds_is_refused_in_one_line(label: str) -> None:
    root, path = FIELDS[label]
    for value in BEYOND:
        tree = copy.deepcopy(root.model_dump(mode="json"))
        node = tree
        for step in path[:-1]:
            node = node[step]
        node[path[-1]] = value
        with pytest.raises(ConfigError) as refused:
            type(root).parse(tree)
        assert "\n" not in str(refused.value)
        assert str(path[-1] if isinstance(path[-1], str) else path[-2]) in str(refused.value)

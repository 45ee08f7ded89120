"""Spaces: what a file may say, and the one message for what it may not."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from surrogate import SPACE

from tcm_lab.codec import load_config
from tcm_lab.errors import ConfigError, LabError
from tcm_lab.study.prepare import prepare
from tcm_lab.study.schema import space_schema
from tcm_lab.study.space import (
    load_space,
    packaged_spaces,
    parse_space,
)
from tcm_lab.study.variants import Variants


def parse(text: str):
    return parse_space(text, "toy.yaml", None)


def test_a_grid_holds_every_choice_once_and_the_baseline_first() -> None:
    variants = list(Variants(parse(SPACE)).all())
    assert [v.params["split"] for v in variants] == [0.5, 0.0, 0.25, 0.75, 1.0]
    assert [v.is_baseline for v in variants] == [True, False, False, False, False]
    assert (
        variants[0].fingerprint == load_config("tcm-nano").override({"rate_levels": 4}).fingerprint
    )


def test_a_pattern_ties_every_stage_that_it_matches() -> None:
    variant = list(Variants(parse(SPACE)).all())[1]
    tree = variant.config.model_dump(mode="json")
    splits = {s["block"]["split"] for t in ("g_a", "g_s") for s in tree[t]["stages"] if s["block"]}
    assert splits == {0.0}
    assert tree["h_a"]["stages"][0]["block"]["split"] == 0.5


def test_stages_may_be_axes_of_their_own_or_tied_by_a_list_of_paths() -> None:
    space = parse("""
name: stages
base: tcm-nano
sampler: grid
axes:
  g_a.stages.0.split: [0.25, 0.5]
  later: {path: [g_a.stages.1.split, g_a.stages.2.split], choices: [0.5, 0.75]}
""")
    variants = list(Variants(space).all())
    found = set()
    for variant in variants:
        stages = variant.config.model_dump(mode="json")["g_a"]["stages"]
        found.add(tuple(stage["block"]["split"] for stage in stages[:3]))
    assert found == {(a, b, b) for a, b in itertools.product((0.25, 0.5), (0.5, 0.75))}


def test_the_bases_own_value_joins_the_choices_that_lack_it() -> None:
    space = parse(SPACE.replace("[0.0, 0.25, 0.5, 0.75, 1.0]", "[0.0, 1.0]"))
    assert space.axes["split"].grid() == [0.0, 0.5, 1.0]


CONDITIONAL = """
name: conditional
base: tcm-nano
sampler: grid
axes:
  attention:
    path: entropy_model.attention
    choices:
      none: {type: none}
      swatten: {type: swatten, squeeze: 16, window_size: 8, head_dim: 8}
  squeeze: {path: entropy_model.attention.squeeze, choices: [8, 16, 32], when: {attention: swatten}}
"""


def test_among_labels_the_bases_own_block_is_called_base() -> None:
    text = """
name: blocks
base: tcm-nano
axes: {block: {path: "g_*.block", choices: {plain: {type: convnext}}}}
sampler: grid
"""
    variants = list(Variants(parse(text)).all())
    assert [v.label for v in variants] == ["block base", "block plain"]
    assert [v.is_baseline for v in variants] == [True, False]


def test_a_conditional_axis_is_counted_only_where_it_acts() -> None:
    variants_of = Variants(parse(CONDITIONAL))
    variants = list(variants_of.all())
    assert variants_of.count() == 1 + 3 == len(variants)
    assert {tuple(v.params) for v in variants} == {("attention",), ("attention", "squeeze")}


def test_a_grid_counts_equal_codecs_once() -> None:
    # With four slices, seeing three, four or five earlier ones is the same.
    space = parse(
        "name: same\nbase: tcm-nano\nsampler: grid\naxes: {entropy_model.support: [1, 3, 4, 5]}"
    )
    variants_of = Variants(space)
    assert variants_of.count() == 4
    assert [v.params["entropy_model.support"] for v in variants_of.all()] == [3, 1]


def test_an_ablation_changes_one_axis_at_a_time() -> None:
    space = parse("""
name: one
base: tcm-nano
mode: ablation
axes:
  split: {path: "g_*.split", choices: [0.0, 0.5, 1.0]}
  entropy_model.slices: [1, 2, 4]
""")
    baseline, *others = Variants(space).all()
    assert baseline.params == {"split": 0.5, "entropy_model.slices": 4}
    changed = [[k for k in v.params if v.params[k] != baseline.params[k]] for v in others]
    assert changed == [["split"]] * 2 + [["entropy_model.slices"]] * 2


OVERRIDES = """
name: groups
base: tcm-nano
mode: ablation
axes:
  change:
    kind: override
    choices:
      sequential: {"?_?.stages.*.block.type": tcm-sequential}
      main path: {entropy_model.attention: none, g_a.stages.1.attention: swatten}
"""


def test_a_choice_may_set_fields_of_its_own() -> None:
    baseline, sequential, main_path = Variants(parse(OVERRIDES)).all()
    nano = load_config("tcm-nano").override({"rate_levels": 4})
    assert baseline.fingerprint == nano.fingerprint
    assert baseline.params == {"change": "base"}
    by_hand = nano.override({"?_?.stages.*.block.type": "tcm-sequential"})
    assert sequential.fingerprint == by_hand.fingerprint
    assert sequential.label == "sequential"
    by_hand = nano.override(
        {"entropy_model.attention": "none", "g_a.stages.1.attention": "swatten"}
    )
    assert main_path.fingerprint == by_hand.fingerprint


def test_integer_and_float_ranges_hold_their_steps() -> None:
    space = parse("""
name: ranges
base: tcm-nano
sampler: grid
axes:
  support: {path: entropy_model.support, kind: integer, low: 0, high: 4}
  split: {path: "g_*.split", kind: float, low: 0.0, high: 1.0, step: 0.25}
""")
    assert space.axes["support"].grid() == [0, 1, 2, 3, 4]
    assert space.axes["split"].grid() == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("kind", ["integer", "float"])
def test_what_chance_draws_of_a_range_by_logarithm_is_spread_evenly_by_it(kind: str) -> None:
    axes = f"{{x: {{path: entropy_model.support, kind: {kind}, low: 1, high: 10000, log: true}}}}"
    axis = parse(f"name: n\nbase: tcm-nano\nbudget: {{trials: 2}}\naxes: {axes}").axes["x"]
    rng = random.Random(0)
    drawn = [axis.draw(rng) for _ in range(2000)]
    assert {type(key) for key in drawn} == {int if kind == "integer" else float}
    assert all(1 <= key <= 10000 for key in drawn)
    below = sum(key < 100 for key in drawn) / len(drawn)
    assert below == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("kind", "low", "high", "step", "last"),
    [("integer", 1, 6, 3, 4), ("float", 0.0, 0.7, 0.25, 0.5), ("float", 0.1, 0.75, 0.1, 0.7)],
)
def test_a_sampler_draws_from_a_range_up_to_its_last_step_without_a_warning(
    kind: str, low: float, high: float, step: float, last: float
) -> None:
    path = "entropy_model.support" if kind == "integer" else "g_*.split"
    axis = f"{{path: '{path}', kind: {kind}, low: {low}, high: {high}, step: {step}}}"
    text = f"name: n\nbase: tcm-nano\nbudget: {{trials: 2}}\naxes: {{x: {axis}}}"
    x = parse(text).axes["x"]
    drawn = x.distribution()
    assert (drawn.low, drawn.high) == (low, last)
    assert (x.grid()[0], x.grid()[-1]) == (low, last)


def test_only_a_declared_order_is_one_for_the_sampler() -> None:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    plain = parse(SPACE).axes["split"]
    assert plain.distribution() == CategoricalDistribution([0.0, 0.25, 0.5, 0.75, 1.0])
    short = parse("name: s\nbase: tcm-nano\nsampler: grid\naxes: {entropy_model.slices: [8, 1]}")
    assert short.axes["entropy_model.slices"].kind == "categorical"
    ordered = parse(SPACE.replace("{path", "{kind: ordinal, path")).axes["split"]
    assert ordered.distribution() == IntDistribution(0, 4)
    assert [ordered.decode(ordered.encode(key)) for key in ordered.grid()] == plain.grid()
    uneven = parse(SPACE.replace("{path", "{kind: ordinal, path").replace("0.5, 0.75, ", ""))
    assert uneven.axes["split"].grid() == [0.0, 0.25, 0.5, 1.0]


def test_a_budget_changes_its_recipe() -> None:
    told = "steps: 40, changes: {crop: 128, batch: 4}"
    recipe = parse(SPACE.replace("steps: 40", told)).budget.recipe_for(3)
    plain = parse(SPACE).budget.recipe_for(3)
    assert recipe == plain.changed(crop=128, batch=4) != plain


WRONG = {
    "a mistyped axis": (
        SPACE.replace("g_*.split", "g_*.splitt"),
        ["toy.yaml", "axes.split", "splitt", "Did you mean split"],
    ),
    "an impossible value": (
        SPACE.replace("0.25, 0.5", "0.3, 0.5"),
        ["toy.yaml", "axes.split", "0.3"],
    ),
    "an unknown field": (SPACE + "objectve: [x]", ["objectve", "Did you mean objectives"]),
    "an unknown objective": (
        SPACE + "objectives: [kmac_per_px]",
        ["objectives", "kmac_per_px", "kmacs_per_px"],
    ),
    "an unknown base": (SPACE.replace("tcm-nano", "tcm-nanu"), ["tcm-nanu", "tcm-nano"]),
    "an unknown recipe": (SPACE.replace("scratch", "scrach"), ["recipe", "scrach", "scratch"]),
    "an override with a path": (
        OVERRIDES.replace("kind: override", "kind: override\n    path: g_a"),
        ["axes.change", "override takes no path"],
    ),
    "an override that names no fields": (
        OVERRIDES.replace('{"?_?.stages.*.block.type": tcm-sequential}', "tcm-sequential"),
        ["axes.change.choices: sequential", "mappings of fields to values"],
    ),
    "an override of a mistyped field": (
        OVERRIDES.replace("block.type", "blok.type"),
        ["axes.change", "blok", "Did you mean block"],
    ),
    "an override to an impossible value": (
        OVERRIDES.replace("tcm-sequential", "tcm-sequentiel"),
        ["axes.change", "tcm-sequentiel", "tcm-sequential"],
    ),
    "a recipe's field that there is none of": (
        SPACE.replace("steps: 40", "changes: {crops: 128}"),
        ["budget", "changes", "crops", "Did you mean crop"],
    ),
    "a recipe's field out of range": (
        SPACE.replace("steps: 40", "changes: {crop: -128}"),
        ["budget", "changes", "crop", "-128"],
    ),
    "steps among the changes": (
        SPACE.replace("steps: 40", "changes: {steps: 40}"),
        ["budget", "changes.steps", "budget.steps"],
    ),
    "no YAML": ("name: [toy", ["toy.yaml, line 1", "not YAML"]),
    "a list": ("- toy", ["toy.yaml", "list", "not a mapping"]),
    "an empty file": ("", ["toy.yaml", "is empty"]),
    "no axes": ("name: toy\nbase: tcm-nano\nsampler: grid", ["'axes' is missing"]),
    "a grid with trials": (SPACE.replace("steps: 40", "trials: 4"), ["budget.trials", "grid"]),
    "a sampler without trials": (
        SPACE.replace("sampler: grid", "sampler: tpe"),
        ["budget.trials is missing"],
    ),
    "a duplicate value": (
        SPACE.replace("0.25", "0.0"),
        ["axes.split.choices", "duplicate choice 0.0"],
    ),
    "a condition on nothing": (
        CONDITIONAL.replace("{attention: swatten}", "{attentoin: swatten}"),
        ["axes.squeeze.when", "attentoin", "Did you mean attention"],
    ),
    "a condition that never holds": (
        CONDITIONAL.replace("{attention: swatten}", "{attention: swin}"),
        ["swin", "none, swatten"],
    ),
    "one of several conditions that never holds": (
        CONDITIONAL.replace("{attention: swatten}", "{attention: [swatten, swin]}"),
        ["axes.squeeze: when.attention: swin", "none, swatten"],
    ),
    "a condition beyond a range": (
        "name: toy\nbase: tcm-nano\nsampler: grid\naxes:\n"
        "  support: {path: entropy_model.support, kind: integer, low: 0, high: 4, step: 2}\n"
        "  g_a.split: {choices: [0.5, 1.0], when: {support: [4, 3]}}",
        ["axes.g_a.split: when.support: 3 is not among 0, 2, 4"],
    ),
    "a range without the base": (
        "name: toy\nbase: tcm-nano\nsampler: grid\n"
        "axes: {entropy_model.support: {kind: integer, low: 1, high: 3}}",
        ["entropy_model.support", "4", "from 1 to 3"],
    ),
    "an unknown kind": (
        SPACE.replace("{path", "{kind: ordnal, path"),
        ["axes.split", "kind = 'ordnal'", "Did you mean ordinal"],
    ),
    "an unknown field of an axis": (
        SPACE.replace("{path", "{pahts: x, path"),
        ["unknown field 'axes.split.pahts'", "Did you mean path"],
    ),
    "an endless range of whole numbers": (
        "name: toy\nbase: tcm-nano\nsampler: grid\n"
        "axes: {entropy_model.support: {kind: integer, low: 1, high: .inf}}",
        ["axes.entropy_model.support.high = inf", "finite"],
    ),
    "a range of too many values": (
        "name: toy\nbase: tcm-nano\nsampler: grid\n"
        "axes: {entropy_model.support: {kind: integer, low: 0, high: 2000000}}",
        ["axes.entropy_model.support", "step = 1", "2000001 values", "larger step"],
    ),
    "a step of nothing": (
        "name: toy\nbase: tcm-nano\nsampler: grid\n"
        'axes: {"g_*.split": {kind: float, low: 0, high: 1, step: 1.0e-300}}',
        ["axes.g_*.split.step = 1e-300", "at least 1e-12"],
    ),
    "a range from end to end": (
        "name: toy\nbase: tcm-nano\nsampler: grid\n"
        'axes: {"g_*.split": {kind: float, low: -1.0e+308, high: 1.0e+308, step: 1}}',
        ["axes.g_*.split.low = -1e+308", "at least"],
    ),
    "a range of too many small steps": (
        "name: toy\nbase: tcm-nano\nsampler: grid\n"
        'axes: {"g_*.split": {kind: float, low: 0, high: 1, step: 0.00001}}',
        ["axes.g_*.split", "100001 values"],
    ),
    "an order that the base's own value has no place in": (
        CONDITIONAL.replace(
            "choices:\n      none", "kind: ordinal\n    choices:\n      none"
        ).replace("squeeze: 16", "squeeze: 8"),
        ["axes.attention", "the base has", "list it where it belongs in the order"],
    ),
    "a grid of a float range": (
        "name: toy\nbase: tcm-nano\nsampler: grid\n"
        'axes: {"g_*.split": {kind: float, low: 0, high: 1}}',
        ["g_*.split", "step"],
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_mistake_is_named_in_one_message_with_its_place(what: str) -> None:
    text, words = WRONG[what]
    with pytest.raises(ConfigError) as caught:
        parse(text)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


HUGE = """
name: huge
base: tcm-nano
axes:
  entropy_model.support: {kind: integer, low: 0, high: 9999}
  g_a.split: {kind: float, low: 0, high: 1, step: 0.001}
"""


def test_a_grid_that_nobody_could_list_is_refused_and_a_search_of_it_is_not() -> None:
    words = r"huge: the axes span 10,010,000 variants.*choose sampler tpe"
    with pytest.raises(ConfigError, match=words):
        Variants(parse(HUGE + "sampler: grid\n"))
    wide = HUGE.replace("9999", "2000000000") + "sampler: random\nbudget: {trials: 4}\n"
    searched = Variants(parse(wide))
    drawn = [searched.draw(random.Random(seed))["entropy_model.support"] for seed in range(50)]
    assert all(isinstance(key, int) and 0 <= key <= 2 * 10**9 for key in drawn)
    assert len(set(drawn)) == 50
    assert searched.count() is None


def test_a_missing_file_names_the_packaged_spaces() -> None:
    with pytest.raises(ConfigError, match=r"configs/splitt.yaml: no such file.*configs/split.yaml"):
        load_space("configs/splitt.yaml")


def test_a_file_under_the_working_directory_comes_before_the_packaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_space("configs/split.yaml").name == "split"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "split.yaml").write_text(SPACE)
    assert load_space("configs/split.yaml").name == "toy"


@pytest.mark.parametrize("name", packaged_spaces())
def test_every_packaged_space_is_valid_and_comes_back_from_its_own_yaml(name: str) -> None:
    space = load_space(name)
    assert parse_space(space.to_yaml(), "again", None) == space


def test_the_shipped_schema_is_that_of_the_fields() -> None:
    from importlib import resources

    shipped = resources.files("tcm_lab") / "configs" / "space.schema.json"
    assert shipped.read_text() == space_schema()
    schema = json.loads(space_schema())
    assert set(schema["required"]) == {"name", "base", "axes"}


@pytest.mark.parametrize(
    "field",
    [
        "estimator",
        "objectives",
        "constraints",
        "base",
        "axes.split.kind",
        "axes.split.path",
        "axes.block.choices.own",
        "axes.split.choices.own",
        "budget.recipe",
        "sampler",
    ],
)
@pytest.mark.parametrize(
    "value",
    [{"type": {f"field {i}": [i] * 50 for i in range(100)}}, "x" * 5000, [{"a": "b" * 90}] * 100],
    ids=["mapping", "text", "list"],
)
def test_a_long_value_is_not_repeated_whole(field: str, value: Any) -> None:
    tree: dict[str, Any] = {
        "name": "long",
        "base": "tcm-nano",
        "axes": {
            "split": {"path": "g_*.split", "choices": {"half": 0.5}},
            "block": {"path": "g_*.block", "choices": {"tcm": "tcm"}},
        },
        "budget": {"recipe": "minute"},
    }
    *path, last = field.split(".")
    place = tree
    for key in path:
        place = place[key]
    place[last] = value
    with pytest.raises(LabError) as raised:
        parse_space(yaml.safe_dump(tree), "long.yaml", None)
    assert len(str(raised.value)) < 1000


def test_a_study_of_trainings_by_another_distortion_than_it_compares_is_refused(
    tmp_path: Path,
) -> None:
    changes = "{metric: ms-ssim, crop: 192, lambdas: [2.4, 60.5]}"
    budget = f"budget: {{recipe: scratch, rate_levels: 2, changes: {changes}}}"
    text = "name: toy\nbase: tcm-nano\naxes: {depth: {path: 'g_*.depth', choices: [0, 1]}}\n"
    space = parse_space(f"{text}sampler: grid\n{budget}\n", "toy.yaml", None)
    with pytest.raises(ConfigError, match=r"metric = ms-ssim: .*squared error.* Leave metric out"):
        prepare(space, out=tmp_path / "toy")
    assert list(tmp_path.iterdir()) == []

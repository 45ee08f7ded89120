"""What a space's variants cost, before any training."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Set
from pathlib import Path

import pytest

from tcm_lab import training
from tcm_lab.blocks import Cost
from tcm_lab.complexity import measure_complexity
from tcm_lab.errors import ConfigError
from tcm_lab.study import capacity, dry_run, forecast, load_space, prepare
from tcm_lab.study.space import parse_space
from tcm_lab.study.variants import Variants
from tcm_lab.training.estimate import Pace

TRANSFORMS = {"g_a", "g_s", "h_a"}
APART = TRANSFORMS | {"h_s", "prior", "gain"}


def test_every_hybrid_has_the_costs_of_the_parts_that_it_is_made_of() -> None:
    variants = {v.label: v.config for v in Variants(load_space("configs/successors.yaml")).all()}
    assert len(variants) == 9
    size = (64, 64)
    nano = measure_complexity("tcm-nano", size).parts
    for label, preset in (("DCAE", "dcae"), ("MLIC++", "mlicpp"), ("HPCM", "hpcm")):
        theirs = measure_complexity(f"{preset}-nano", size).parts
        (transforms,) = (c for k, c in variants.items() if k == f"{label}'s transforms")
        (model,) = (c for k, c in variants.items() if k.startswith(label) and c != transforms)
        parts = measure_complexity(transforms, size).parts
        assert _only(parts, TRANSFORMS) == _only(theirs, TRANSFORMS)
        assert _only(parts, nano.keys() - APART) == _only(nano, nano.keys() - APART)
        parts = measure_complexity(model, size).parts
        assert _only(parts, TRANSFORMS) == _only(nano, TRANSFORMS)
        assert _only(parts, parts.keys() - APART) == _only(theirs, theirs.keys() - APART)


def _only(parts: Mapping[str, Cost], names: Set[str]) -> dict[str, Cost]:
    return {name: parts[name] for name in names}


def test_a_dry_run_has_the_times_of_every_variant_beside_its_counts(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(
        "name: two\nbase: tcm-nano\nsize: [64, 64]\nsampler: grid\n"
        "axes: {depth: {path: 'g_*.depth', choices: [0, 2]}}\n"
        "objectives: [lagrangian_percent, kmacs_per_px]\nbudget: {recipe: minute}\n"
        "constraints: {decode_ms: 1.0e+6}\n"  # which is a column, too
    )
    context = prepare(load_space(tmp_path / "space.yaml"), out=tmp_path / "out")
    table = dry_run(context, coding={"repeats": 2, "seconds": 0.01, "warm_up": 1}).table
    assert [row.values.get("decode_ratio") is None for row in table.rows] == [True, False]
    assert all(row.values["kmacs_per_px"] and row.values["encode_ms"] for row in table.rows)
    timed = {c.key for c in table.columns if c.key.startswith(("encode_", "decode_"))}
    assert timed >= {f"{way}_{what}" for way in ("encode", "decode") for what in ("ms", "ratio")}
    second = table.rows[-1].values
    assert second["encode_ms"].low <= second["encode_ms"].value  # type: ignore[union-attr]
    assert second["decode_ratio"].value > 0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fields", "outcomes"),
    [
        ("sampler: grid", {"trained"}),
        ("sampler: random\nbudget: {trials: 2}", {"trained", "may be trained"}),
        ("sampler: grid\nestimator: {type: paired-loss, steps: 60}", {"estimated"}),
    ],
)
def test_a_dry_run_tells_what_will_be_trained_from_what_may_be(
    tmp_path: Path, fields: str, outcomes: Set[str]
) -> None:
    axes = "axes: {depth: {path: 'g_*.depth', choices: [0, 1, 2]}}"
    text = f"name: toy\nbase: tcm-nano\nsize: [64, 64]\n{axes}\n{fields}"
    context = prepare(parse_space(text, "toy.yaml", None), out=tmp_path / "toy")
    found = dry_run(context)
    assert {row.values["outcome"] for row in found.table.rows} == outcomes
    assert "3 combinations of 1 axis (depth)" in found.text()


@pytest.mark.parametrize(("trials", "trainings"), [(2, 2), (50, 3)])
def test_a_dry_run_promises_no_more_trainings_than_a_search_has_variants(
    tmp_path: Path, trials: int, trainings: int
) -> None:
    axes = "axes: {depth: {path: 'g_*.depth', choices: [0, 1, 2]}}"
    text = f"name: toy\nbase: tcm-nano\nsize: [64, 64]\n{axes}\nbudget: {{trials: {trials}}}"
    context = prepare(parse_space(text, "toy.yaml", None), out=tmp_path / "toy")
    assert f"Budget: {trainings} trainings of" in dry_run(context).text()
    with pytest.raises(ConfigError, match="workers = 0: must be at least 1"):
        dry_run(context, 0)


@pytest.mark.parametrize(("gpus", "told"), [(1, "on a GPU"), (2, "on a GPU"), (0, "on a core")])
def test_a_training_is_timed_on_what_will_train_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, told: str
) -> None:
    devices: list[str] = []

    def pace(build: object, recipe: object, images: object, accelerator: str = "auto") -> Pace:
        devices.append(accelerator)
        return Pace(1.0, 0.0)

    monkeypatch.setattr(training, "measure_pace", pace)
    monkeypatch.setattr(forecast, "_coding_s", lambda *_: 0.0)
    monkeypatch.setattr(forecast, "cores", lambda: 4)
    for module in (capacity, forecast):
        monkeypatch.setattr(module, "visible_gpus", lambda: ["0"] * gpus)
    axes = "axes: {depth: {path: 'g_*.depth', choices: [0, 1, 2]}}"
    budget = "budget: {recipe: scratch, steps: 600}"
    text = f"name: toy\nbase: tcm-nano\nsize: [64, 64]\n{axes}\nsampler: grid\n{budget}"
    context = prepare(parse_space(text, "toy.yaml", None), out=tmp_path / "toy")
    lines = " ".join(dry_run(context, 4, timed=True).lines)
    assert f"Each training takes about 10:00 alone {told}" in lines
    shared = {1: "30:00", 2: "15:00", 0: "10:00"}[gpus]  # half an hour in all, on so many of them
    assert f"Estimated time: about {shared} with 3 workers" in lines
    assert set(devices) == {"auto"}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        # Three trainings of ten minutes for each seed and each λ, each after its linear phase.
        (
            "mode: ablation\nbudget: {recipe: minute, steps: 600, seeds: 2}",
            "1:02:00 with 1 worker.",
        ),
        (
            "mode: ablation\nbudget: {recipe: minute, steps: 600, rate_levels: 0, "
            "changes: {lambdas: [0.002, 0.004, 0.008]}}",
            "1:33:00 with 1 worker.",
        ),
        (
            "sampler: grid\nbudget: {recipe: minute, steps: 600, seeds: 2}",
            "31:00 with 1 worker, plus the further seeds of the front.",
        ),
        # Beside its own steps, each takes the cooldown of its rung: a fifth of 300.
        (
            "mode: ablation\nbudget: {recipe: study, steps: 600, rungs: [0.5]}",
            "34:00 with 1 worker.",
        ),
    ],
)
def test_an_estimate_counts_every_linear_phase_and_names_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: str, told: str
) -> None:
    monkeypatch.setattr(training, "measure_pace", lambda *_: Pace(1.0, 60.0))
    monkeypatch.setattr(forecast, "_coding_s", lambda *_: 0.0)
    axes = "axes: {depth: {path: 'g_*.depth', choices: [0, 1, 2]}}"
    text = f"name: toy\nbase: tcm-nano\nsize: [64, 64]\n{axes}\n{fields}"
    context = prepare(parse_space(text, "toy.yaml", None), out=tmp_path / "toy")
    lines = dry_run(context, 1, timed=True).lines
    assert f"Estimated time: about {told}" in lines


def test_a_dry_run_that_looks_at_a_part_of_a_grid_does_not_promise_it_for_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("tcm_lab.study.dry_run"), "_LOOK_S", 0.0)
    slices = "slices: {path: entropy_model.slices, choices: [1, 2, 4, 8]}"
    axes = f"axes: {{depth: {{path: 'g_*.depth', choices: [0, 1, 2]}}, {slices}}}"
    text = f"name: toy\nbase: tcm-nano\nsize: [64, 64]\n{axes}\nsampler: grid"
    found = dry_run(prepare(parse_space(text, "toy.yaml", None), out=tmp_path / "toy"))
    assert "12 combinations" in found.lines[0]
    assert "Of 1 examined: 1 can be built" in found.lines[0]
    assert found.lines[1].startswith("Budget: about 12 trainings of 150 steps")


def test_a_dry_run_says_what_a_mapping_resets_beside_what_it_names(tmp_path: Path) -> None:
    def said(choice: str) -> str:
        text = (
            "name: toy\nbase: tcm-nano\nmode: ablation\nbudget: {recipe: study}\n"
            f"axes: {{change: {{kind: override, choices: {{other: {choice}}}}}}}"
        )
        return dry_run(prepare(parse_space(text, "toy.yaml", None), out=tmp_path / "toy")).text()

    reset = "other also sets entropy_model.normalised from True to False"
    assert reset in said(
        "{entropy_model: {slices: 1, support: 0, hidden: none, lrp: none, attention: none}}"
    )
    for kept in (
        "{entropy_model.slices: 1}",
        "{entropy_model: {type: dictionary, slices: 4}}",
        "{entropy_model.attention: {type: residual-attention}}",
    ):
        assert "also sets" not in said(kept)

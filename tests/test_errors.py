"""What pydantic finds in real models is said in one form: the field, its value, what would work."""

from __future__ import annotations

from typing import Any

import pytest

import tcm_lab
from tcm_lab.errors import ConfigError, first_line
from tcm_lab.study.space import parse_space
from tcm_lab.training import get_recipe

ATTENTION = "entropy_model.attention"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("latent_channels", 0, "latent_channels = 0: must be greater than 0"),
        ("latent_channels", "x", "latent_channels = 'x': must be an integer"),
        ("latent_channels", 2.5, "latent_channels = 2.5: must be an integer"),
        ("latent_channels", None, "latent_channels = None: must be an integer"),
        ("g_a.stages.0.depth", -1, "g_a.stages.0.depth = -1: must be at least 0"),
        ("g_a.split", 1.5, "split = 1.5: must be at most 1"),
        ("g_a.split", "half", "split = 'half': must be a number"),
        (f"{ATTENTION}.mlp_ratio", float("inf"), "mlp_ratio = inf: must be a finite number"),
        (f"{ATTENTION}.squeeze", 1.5, "squeeze = 1.5: must be an integer or at most 1"),
        (f"{ATTENTION}.squeeze", -1, "squeeze = -1: must be greater than 0"),
        ("entropy_model.lrp", "after", "must be 'none', 'before-attention' or 'after-attention'"),
        ("entropy_model.checkerboard", "maybe", "checkerboard = 'maybe': must be true or false"),
        ("entropy_model.slices", "x", "slices = 'x': must be an integer or a list"),
        ("entropy_model.slices", [1, -2], "slices.1 = -2: must be greater than 0"),
        ("entropy_model", {"slices": 1}, "'entropy_model.support' is missing"),
        ("name", 3, "name = 3: must be a string"),
        ("name", "a;b", "name = 'a;b': must be a string that matches ^"),
        ("g_a", 3, "g_a = 3: must be a mapping"),
        ("g_a.stages", 3, "g_a.stages = 3: must be a list"),
        ("g_a.stages", [], "g_a.stages = []: must be at least 1 long"),
        ("g_a.stages.0.block", {"type": "convnext", "kernel": 4}, "kernel: 4 is even"),
        ("g_*.depth", 10**8, "depth = 100000000: must be at most 1000"),
        ("latent_channels", 10**12, "latent_channels = 1000000000000: must be at most 65536"),
        ("hyper_channels", 10**30, "must be at most 65536"),
        ("g_a.stages.0.width", 99_999_999_999, "width = 99999999999: must be at most 65536"),
        ("entropy_model.hidden", [10**9], "hidden.0 = 1000000000: must be at most 65536"),
        ("rate_levels", 10**9, "rate_levels = 1000000000: must be at most 64"),
        ("g_a.window_size", 10**9, "window_size = 1000000000: must be at most 64"),
    ],
)
def test_a_field_of_a_variant_says_what_would_work(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tcm_lab.load_config("tcm-nano").override({path: value})
    assert message in str(caught.value)
    assert "should" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "axes: {x: {path: g_a.split, choices: 3}}",
            "axes.x.choices = 3: must be a list or a mapping",
        ),
        ("axes: {x: {path: 3, choices: [1]}}", "axes.x.path = 3: must be a string"),
        ("axes: {x: {path: g_a.split, kind: flaot}}", "kind = 'flaot': Did you mean float"),
        ("axes: {x: {path: g_a.split, kind: float, high: 1}}", "'axes.x.low' is missing"),
        ("budget: {rungs: [2]}", "budget.rungs.0 = 2: must be less than 1"),
        ("objectives: []", "objectives = []: must be at least 1 long"),
        ("size: [1]", "'size.1' is missing"),
    ],
)
def test_a_field_of_a_space_says_what_would_work(line: str, message: str) -> None:
    lines = {
        "axes": "axes: {x: {path: g_a.split, choices: [0, 1]}}",
        "objectives": "objectives: [lagrangian_percent]",
        line.partition(":")[0]: line,
    }
    with pytest.raises(ConfigError) as caught:
        parse_space("\n".join(["name: a", "base: tcm-nano", *lines.values()]), "a.yaml", None)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ema": 1}, "ema = 1: must be less than 1"),
        ({"metric": "x"}, "metric = 'x': must be 'mse' or 'ms-ssim'"),
        ({"stesp": 1}, "unknown field 'stesp'. Did you mean steps?"),
        ({"lr": float("inf")}, "lr = inf: must be a finite number"),
        ({"clip_norm": float("nan")}, "clip_norm = nan: must be a finite number"),
        ({"lambdas": [0.01, float("inf")]}, "lambdas.1 = inf: must be a finite number"),
        ({"crop": 10**9}, "crop = 1000000000: must be at most 65536"),
        ({"batch": 10**12}, "batch = 1000000000000: must be at most 65536"),
        ({"steps": 10**20}, "steps = 100000000000000000000: must be at most 1000000000"),
    ],
)
def test_a_field_of_a_recipe_says_what_would_work(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_recipe("scratch", **fields)
    assert message in str(caught.value)


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ConfigError, match=r"latent_channels = \[0, 1, .*…: must be an integer"):
        tcm_lab.load_config("tcm-nano").override({"latent_channels": list(range(1000))})


def test_an_error_that_says_nothing_has_a_first_line_too() -> None:
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(RuntimeError("\n")) == "RuntimeError"

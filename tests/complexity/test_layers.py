"""Every registered layer's closed formula, against torch's count of a codec that is made of it."""

from __future__ import annotations

from typing import Any

import pytest

from tcm_lab.blocks import ATTENTIONS, BLOCKS, RESAMPLERS, Kind
from tcm_lab.codec import VariantConfig, load_config
from tcm_lab.complexity import ComplexityRecord, measure_complexity

SIZE = (70, 130)
COUNTED = (Kind.CONVOLUTION, Kind.LINEAR, Kind.ATTENTION, Kind.GDN)
TINY = load_config("tcm-nano").override(
    {"?_?.depth": 1, "h_*.width": 32, "entropy_model.slices": 1, "entropy_model.attention": "none"}
)


def _resampled(name: str) -> dict[str, Any]:
    """Put the resampler where g_a and g_s change size, or, where it does not, into a new stage."""
    if RESAMPLERS.parse(name).factor > 1:
        return {"?_?.stages.0.resample": name}
    tree = TINY.model_dump(mode="json")
    stages = {side: tree[side]["stages"] for side in ("g_a", "g_s")}
    added = {"resample": name, "width": 32, "depth": 1, "block": "residual"}
    first, *rest = stages["g_a"]
    before, last = stages["g_s"][:-1], stages["g_s"][-1]
    return {"g_a.stages": [first, added, *rest], "g_s.stages": [*before, added, last]}


CASES = {
    **{f"block {name}": {"g_*.block": name, "h_*.block": name} for name in BLOCKS},
    **{
        f"attention {name}": {"entropy_model.attention": name, "g_*.stages.1.attention": name}
        for name in ATTENTIONS
    },
    **{f"resampler {name}": _resampled(name) for name in RESAMPLERS},
}


def _macs(record: ComplexityRecord) -> dict[tuple[str, Kind], int]:
    return {
        (part, kind): macs
        for part, cost in record.parts.items()
        for kind, macs in cost.macs.items()
        if kind in COUNTED
    }


def _parameters(record: ComplexityRecord) -> dict[str, dict[Kind, int]]:
    found = {part: dict(cost.parameters) for part, cost in record.parts.items()}
    return {part: kinds for part, kinds in found.items() if kinds}


@pytest.mark.parametrize("case", CASES)
def test_a_layer_costs_what_torch_counts_when_it_runs(case: str) -> None:
    config: VariantConfig = TINY.override(CASES[case])
    formula = measure_complexity(config, SIZE)
    by_torch = measure_complexity(config, SIZE, counter="torch")
    assert formula.counter == "formula"
    assert _macs(formula) == _macs(by_torch)
    assert _parameters(formula) == _parameters(by_torch)
    assert by_torch.unknown_operators == ()

"""Every registered layer's closed formula, against torch's count of a codec that is made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from tcm_lab.blocks import ATTENTIONS, BLOCKS, RESAMPLERS, Kind
from tcm_lab.codec import VariantConfig, load_config
from tcm_lab.complexity import measure_complexity

Figures = Mapping[str, Mapping[str, int]]

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


def _flat(figures: Figures, kinds: Iterable[str] = tuple(Kind)) -> dict[tuple[str, str], int]:
    return {
        (part, kind): figure
        for part, by_kind in figures.items()
        for kind, figure in by_kind.items()
        if kind in list(kinds)
    }


@pytest.mark.parametrize("case", CASES)
def test_a_layer_costs_what_torch_counts_when_it_runs(case: str) -> None:
    config: VariantConfig = TINY.override(CASES[case])
    formula = measure_complexity(config, SIZE)
    by_torch = measure_complexity(config, SIZE, counter="torch")
    assert formula.counter == "formula"
    assert _flat(formula.macs, COUNTED) == _flat(by_torch.macs, COUNTED)
    assert _flat(formula.parameters) == _flat(by_torch.parameters)
    assert by_torch.unknown_operators == ()

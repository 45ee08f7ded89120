"""The study of shared random numbers: its figures from trials whose variances are known."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scripts import script

SCRIPT = Path(__file__).parents[2] / "studies" / "fidelity" / "sharing.py"
SD = {"weights": 0.3, "crops": 0.5, "noise": 0.2}  # percent, of what each kind does to one training
OWN = 0.1  # of what it does to a variant alone


@pytest.fixture(scope="module")
def sharing() -> ModuleType:
    return script(SCRIPT)


def test_a_kind_that_is_not_shared_counts_on_both_sides(
    sharing: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "SEEDS", 4000)
    rng = np.random.default_rng(0)
    drawn = {
        (kind, seed): rng.normal(0, sd)
        for kind, sd in SD.items()
        for seed in (*range(4000), *range(sharing.AWAY * 10, sharing.AWAY * 10 + 4000))
    }
    found = []
    for name, seed, differs in sharing.trials():
        seeds = {kind: seed + 10 * sharing.AWAY * (kind == differs) for kind in SD}
        percent = sum(drawn[kind, seeds[kind]] for kind in SD) + rng.normal(0, OWN)
        found.append(
            sharing.Trial(
                variant=name,
                seed=seed,
                differs=differs,
                cpu_s=1.0,
                log_cost=percent / 100,
                train="",
                evaluation="",
            )
        )
    table = sharing.table(found)
    values = {str(row.values["shared"]): float(row.values["noise"]) for row in table.rows}
    alone = 2 * OWN**2
    assert values.pop("everything") == pytest.approx(alone**0.5, rel=0.05)
    everything = sum(2 * sd**2 for sd in SD.values())
    assert values.pop("nothing") == pytest.approx((alone + everything) ** 0.5, rel=0.05)
    expected = {
        f"everything but {sharing.KINDS[k]}": (alone + 2 * sd**2) ** 0.5 for k, sd in SD.items()
    }
    assert values == pytest.approx(expected, rel=0.05)

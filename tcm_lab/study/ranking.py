"""Whether two studies rank the variants that both trained alike, beside what their seeds allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean

import numpy as np

from tcm_lab._utils import Frozen
from tcm_lab.errors import LabError
from tcm_lab.evaluation import lagrangian_cost
from tcm_lab.study.record import TrialRecord

_MIN_VARIANTS = 3
_LEVEL = 0.95

Costs = Mapping[str, Sequence[float]]
"""By variant, the mean logarithm of the Lagrangian cost of each of its trainings."""


class RankAgreement(Frozen):
    """How alike two sets of trainings rank their variants by Lagrangian cost.

    Attributes:
        tau: Kendall's τ-b between the means over seeds; 1 for one order, 0 for none in common.
        low: lower end of the interval over resampled variants and seeds.
        high: upper end.
        variants: how many both rank.
        seeds: trainings of a variant that has most, on either side.
        ceilings: on either side, the mean τ between one seed's ranking and another's, which is
            what noise leaves to be found; ``None`` with a single seed.
    """

    tau: float
    low: float
    high: float
    variants: int
    seeds: tuple[int, int]
    ceilings: tuple[float | None, float | None]


def rank_agreement(
    first: Sequence[TrialRecord],
    second: Sequence[TrialRecord],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> RankAgreement:
    """Compare how two studies rank the variants that both trained to the end.

    Args:
        first: records of one study.
        second: records of the other, at another budget for instance.
        samples: resamples of variants and seeds for the interval.
        seed: of the resampling.

    Raises:
        LabError: they share fewer than three variants.
    """
    sides = _costs(first), _costs(second)
    shared = [name for name in sides[0] if name in sides[1]]
    if len(shared) < _MIN_VARIANTS:
        raise LabError(
            f"{len(shared)} variants were trained to the end in both studies; a ranking needs "
            f"at least {_MIN_VARIANTS}."
        )
    generator = np.random.default_rng(seed)
    drawn = [list(generator.choice(shared, len(shared))) for _ in range(samples)]
    taus = np.array([_tau(*(_resampled(side, d, generator) for side in sides)) for d in drawn])
    # Of one variant drawn again and again, or of equal ones, there is no order.
    low, high = np.nanquantile(taus, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return RankAgreement(
        tau=_tau(*([fmean(side[name]) for name in shared] for side in sides)),
        low=float(low),
        high=float(high),
        variants=len(shared),
        seeds=(_most(sides[0], shared), _most(sides[1], shared)),
        ceilings=(_ceiling(sides[0], shared), _ceiling(sides[1], shared)),
    )


def _costs(records: Sequence[TrialRecord]) -> dict[str, list[float]]:
    costs: dict[str, list[float]] = {}
    for record in sorted(records, key=lambda record: record.seed):
        if record.state == "complete":
            cost = lagrangian_cost(record.rd, record.lambdas)
            costs.setdefault(record.fingerprint, []).append(cost)
    return costs


def _tau(first: Sequence[float], second: Sequence[float]) -> float:
    from scipy.stats import kendalltau

    return float(kendalltau(first, second).statistic)


def _resampled(side: Costs, names: Sequence[str], generator: np.random.Generator) -> list[float]:
    """Return the mean over resampled seeds of each variant; one that was drawn twice stays one."""
    means = {name: float(generator.choice(side[name], len(side[name])).mean()) for name in names}
    return [means[name] for name in names]


def _most(side: Costs, names: Sequence[str]) -> int:
    return max(len(side[name]) for name in names)


def _ceiling(side: Costs, names: Sequence[str]) -> float | None:
    """Return the mean τ between the rankings of two seeds that every variant has."""
    seeds = range(min(len(side[name]) for name in names))
    taus = [
        _tau([side[name][a] for name in names], [side[name][b] for name in names])
        for a, b in combinations(seeds, 2)
    ]
    return fmean(taus) if taus else None

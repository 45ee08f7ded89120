"""Two studies side by side: their fronts, their rankings, and every variant of either."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain, combinations
from math import isnan, log1p
from statistics import fmean

from tcm_lab._utils import Frozen
from tcm_lab.errors import LabError
from tcm_lab.evaluation import lagrangian_cost
from tcm_lab.metrics import METRICS
from tcm_lab.reporting import Column, Row, Table, Value
from tcm_lab.stats import Draw, Interval, bootstrap, within
from tcm_lab.study.estimators import Train
from tcm_lab.study.importance import hypervolume, reference_point
from tcm_lab.study.record import TrialRecord, objective_losses
from tcm_lab.study.result import StudyResult
from tcm_lab.study.summary import VariantSummary, summarise
from tcm_lab.study.tables import column_of

_SIDES = ("first", "second")
_MIN_VARIANTS = 3

Costs = Mapping[str, Sequence[float]]
"""Mean logarithm of the Lagrangian cost of each training, by variant."""


def compare_studies(a: StudyResult, b: StudyResult) -> list[Table]:
    """Return tables: an overview, the agreement of the rankings, and the variants of both studies.

    Rankings are compared if both studies trained at least three of the same variants to the end.
    Percentages are relative to each study's own baseline.

    Raises:
        LabError: the studies have different objectives, images or rates, so their values are not
            comparable.
    """
    _check_comparable(a, b)
    studies = {"A": a, "B": b}
    summaries = {name: summarise(each.records, each.space) for name, each in studies.items()}
    tables = [_overview(studies, summaries), _variants(summaries, a.space.objectives)]
    with suppress(LabError):  # too few variants in common
        tables.insert(1, ranking_table(studies))
    return tables


def _check_comparable(a: StudyResult, b: StudyResult) -> None:
    if a.space.objectives != b.space.objectives:
        raise LabError(
            f"{a.out} has the objectives {', '.join(a.space.objectives)} but {b.out} has "
            f"{', '.join(b.space.objectives)}; compare studies with the same objectives."
        )
    conditions = [
        {
            "estimators": {study.space.estimator},
            "evaluation images": {r.rd.data_fingerprint for r in study.records if r.rd},
            "lambdas": {record.lambdas for record in study.records},
            "image sizes for the complexity": {record.complexity.size for record in study.records},
        }
        for study in (a, b)
    ]
    for what, of_a in conditions[0].items():
        if of_a != conditions[1][what]:
            raise LabError(
                f"{a.out} and {b.out} have different {what}; their results are not comparable."
            )


def _overview(
    studies: Mapping[str, StudyResult], summaries: Mapping[str, Sequence[VariantSummary]]
) -> Table:
    a, b = studies.values()

    def losses(of: Iterable[VariantSummary], baseline: VariantSummary) -> list[list[float]]:
        rows = [objective_losses(s.records, baseline.records, a.space) for s in of]
        return [row for row in rows if not any(map(isnan, row))]

    fronts = {name: losses([s for s in of if s.on_front], of[0]) for name, of in summaries.items()}
    reference = reference_point([row for of in summaries.values() for row in losses(of, of[0])])
    volumes = {name: hypervolume(points, reference) for name, points in fronts.items()}
    best = max(volumes.values()) or 1.0
    rows = []
    for name, study in studies.items():
        values: dict[str, Value] = {
            "study": f"{name} ({study.out})",
            "variants": len(summaries[name]),
            "stopped": sum(record.state == "stopped" for record in study.records),
            "steps": sum(record.steps for record in study.records),
            "front": len(fronts[name]),
            "hypervolume": 100 * volumes[name] / best,
        }
        rows.append(Row(values=values))
    note = "Both hypervolumes share a reference point, beyond the worst of both studies."
    bases = {of[0].first.fingerprint for of in summaries.values()}
    if len(bases) > 1 and any(METRICS[name].relative for name in a.space.objectives):
        rows = [
            Row(values={k: v for k, v in row.values.items() if k != "hypervolume"}) for row in rows
        ]
        note = (
            "The studies have different baselines, to which their percentages refer, so their "
            "hypervolumes are not comparable."
        )
    table = Table(
        title=f"{a.space.name} and {b.space.name}",
        columns=(
            Column(key="study", header="study"),
            Column(key="variants", header="variants", format="d"),
            Column(key="stopped", header="stopped early", format="d"),
            Column(key="steps", header="training steps", format=",d"),
            Column(key="front", header="on the front", format="d"),
            Column(key="hypervolume", header="hypervolume", unit="% of the larger", format=".1f"),
        ),
        rows=tuple(rows),
        footer=(note,),
    )
    return table.without_empty_columns()


def _variants(
    summaries: Mapping[str, Sequence[VariantSummary]], objectives: Sequence[str]
) -> Table:
    """Return a table of objectives.

    Pareto marks must hold in each study that has the variant, other marks in one of them.
    """
    columns = [Column(key="variant", header="variant")]
    variants: dict[str, dict[str, VariantSummary]] = {}
    for side, of_side in summaries.items():
        for name in objectives:
            header = METRICS[name].label
            columns.append(column_of(name, key=f"{side}_{name}", group=side, header=header))
        for summary in of_side:
            variants.setdefault(summary.first.fingerprint, {})[side] = summary
    rows = []
    for by_side in variants.values():
        first = next(iter(by_side.values()))
        values: dict[str, Value] = {"variant": first.label}
        for side, summary in by_side.items():
            values |= {f"{side}_{name}": summary.value(name) for name in objectives}
        of_sides = [each.marks for each in by_side.values()]
        marks = (
            mark
            for mark in dict.fromkeys(chain(*of_sides))
            if "pareto" not in mark or all(mark in each for each in of_sides)
        )
        rows.append(Row(values=values, marks=tuple(marks)))
    note = (
        "A variant is marked Pareto-optimal if it is so in every study that has it, and with the "
        "other marks if they hold in one."
    )
    return Table(title="Variants", columns=tuple(columns), rows=tuple(rows), footer=(note,))


class RankAgreement(Frozen):
    """Agreement of two sets of trainings in ranking their variants by Lagrangian cost.

    Attributes:
        tau: Kendall's τ-b between the means over seeds, with its interval over resampled variants
            and seeds; 1 for the same order, 0 for unrelated orders.
        variants: number of variants in both rankings.
        seeds: largest number of trainings of a variant, for each side.
        ceilings: mean τ between the rankings by two seeds, for each side: the most that noise lets
            another ranking reach. ``None`` with a single seed.
    """

    tau: Interval
    variants: int
    seeds: tuple[int, int]
    ceilings: tuple[float | None, float | None]


def rank_agreement(
    first: Sequence[TrialRecord], second: Sequence[TrialRecord], *, samples: int = 1000
) -> RankAgreement:
    """Compare how two studies rank the variants that both trained to the end.

    Args:
        first: records of one study.
        second: records of the other, for instance with another budget.
        samples: number of resamples.

    Raises:
        LabError: the two share fewer than three variants.
    """
    sides = _costs(first), _costs(second)
    shared = [name for name in sides[0] if name in sides[1]]
    if len(shared) < _MIN_VARIANTS:
        raise LabError(
            f"{len(shared)} variants were trained to the end in both studies; a ranking needs "
            f"at least {_MIN_VARIANTS}."
        )

    # A seed shifts all variants alike, so trainings with the same seeds are resampled together.
    paired = len({len(side[name]) for side in sides for name in shared}) == 1
    drawn_as = [
        {name: "seeds" if paired else f"{n} {name}" for name in shared} for n in range(len(sides))
    ]

    def tau(draw: Draw) -> float:
        means = [
            [fmean(side[name][i] for i in draw[units[name]]) for name in shared]
            for side, units in zip(sides, drawn_as, strict=True)
        ]
        return _tau(*([mean[v] for v in draw["variants"]] for mean in means))

    units = {
        unit: len(side[name])
        for side, of_side in zip(sides, drawn_as, strict=True)
        for name, unit in of_side.items()
    }
    interval = within(bootstrap(tau, {"variants": len(shared), **units}, samples=samples), -1, 1)
    first_most, second_most = (max(len(side[name]) for name in shared) for side in sides)
    resampled = {"variants": len(shared), "seeds": max(first_most, second_most)}
    return RankAgreement(
        tau=interval.model_copy(update={"resampled": resampled}),
        variants=len(shared),
        seeds=(first_most, second_most),
        ceilings=(_ceiling(sides[0], shared), _ceiling(sides[1], shared)),
    )


def _costs(records: Sequence[TrialRecord]) -> Costs:
    """Return the costs that rank each variant; an estimate counts relative to its baseline's."""
    costs: dict[str, list[float]] = {}
    baseline = {record.seed: record for record in records if record.is_baseline}
    for record in sorted(records, key=lambda record: record.seed):
        if record.state != "complete":
            continue
        if record.estimator == Train():
            cost = lagrangian_cost(record.evaluation, record.lambdas)
        elif record.seed in baseline:
            cost = log1p(record.lagrangian_percent(baseline[record.seed]) / 100)
        else:
            continue
        costs.setdefault(record.fingerprint, []).append(cost)
    return costs


def _tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Kendall's τ-b, or 0 if all variants tie on one side."""
    from scipy.stats import kendalltau

    tau = float(kendalltau(first, second).statistic)
    return 0.0 if isnan(tau) else tau


def _ceiling(side: Costs, names: Sequence[str]) -> float | None:
    """Return the mean τ between the rankings by two seeds, of the seeds that every variant has."""
    seeds = range(min(len(side[name]) for name in names))
    taus = [
        _tau([side[name][a] for name in names], [side[name][b] for name in names])
        for a, b in combinations(seeds, 2)
    ]
    return fmean(taus) if taus else None


def ranking_table(studies: Mapping[str, StudyResult]) -> Table:
    """Return a table of how well each pair of studies agrees in ranking their common variants.

    Args:
        studies: studies by their names in the table.

    Raises:
        LabError: two studies share too few variants.
    """
    columns = (
        *(Column(key=side, header=side) for side in _SIDES),
        Column(key="variants", header="variants in both", format="d"),
        Column(key="tau", header="Kendall's τ between their rankings", format="+.2f"),
        *(Column(key=f"{side}_seeds", header=side, group="seeds", format="d") for side in _SIDES),
        *(
            Column(key=f"{side}_ceiling", header=side, group="τ between seeds", format="+.2f")
            for side in _SIDES
        ),
    )
    rows = []
    for pair in combinations(studies, 2):
        agreement = rank_agreement(*(studies[name].searched for name in pair))
        values: dict[str, Value] = {"variants": agreement.variants, "tau": agreement.tau}
        sides = zip(_SIDES, pair, agreement.seeds, agreement.ceilings, strict=True)
        for side, name, seeds, ceiling in sides:
            values |= {side: name, f"{side}_seeds": seeds, f"{side}_ceiling": ceiling}
        rows.append(Row(values=values))
    return Table(
        title="Ranking by Lagrangian cost",
        columns=columns,
        rows=tuple(rows),
        footer=(
            "τ between means over seeds, with the 95 % bootstrap interval over variants and seeds; "
            "τ between seeds is the agreement of two seeds' rankings within one study.",
        ),
    )

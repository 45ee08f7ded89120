"""Two studies side by side: what they share, what differs, and whose front is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import combinations
from pathlib import Path

from tcm_lab.errors import LabError
from tcm_lab.reporting import Column, Row, Table, Value
from tcm_lab.stats import Interval
from tcm_lab.study.hypervolume import hypervolume
from tcm_lab.study.ranking import rank_agreement
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.result import StudyResult
from tcm_lab.study.summary import VariantSummary, objective_row, summarise
from tcm_lab.study.tables import FIGURES, marks

_SIDES = ("first", "second")


def compare_studies(a: StudyResult, b: StudyResult) -> list[Table]:
    """Return tables: the fronts' figures, how alike both rank, and every variant of either study.

    Rankings are compared where both trained at least three variants to the end. Percentages are
    each study's own, against its own baseline.

    Raises:
        LabError: they minimise different figures, or are of different images or rates, so that
            nothing in them compares.
    """
    _comparable(a, b)
    tables = [_overview(a, b), _variants(a, b)]
    with suppress(LabError):  # too few in common
        tables.insert(1, ranking_table({"A": a, "B": b}))
    return tables


def _comparable(a: StudyResult, b: StudyResult) -> None:
    if a.space.objectives != b.space.objectives:
        raise LabError(
            f"{a.out} minimises {', '.join(a.space.objectives)} but {b.out} "
            f"{', '.join(b.space.objectives)}; compare studies with the same objectives."
        )
    conditions: dict[str, Callable[[TrialRecord], object]] = {
        "evaluation images": lambda record: record.rd.data_fingerprint,
        "lambdas": lambda record: record.lambdas,
        "counted image sizes": lambda record: record.complexity.size,
    }
    for what, of in conditions.items():
        sides = [{of(record) for record in study.records} for study in (a, b)]
        if sides[0] != sides[1]:
            raise LabError(
                f"{a.out} and {b.out} have different {what}; their figures do not compare."
            )


def _overview(a: StudyResult, b: StudyResult) -> Table:
    studies = {"A": a, "B": b}
    rows = {name: [objective_row(r, s.space) for r in _front(s)] for name, s in studies.items()}
    every = [objective_row(r, s.space) for s in studies.values() for r in s.records]
    reference = [max(c) + 0.1 * ((max(c) - min(c)) or 1.0) for c in zip(*every, strict=True)]
    volumes = {name: hypervolume(points, reference) for name, points in rows.items()}
    best = max(volumes.values()) or 1.0
    columns = (
        Column(key="study", header="study"),
        Column(key="variants", header="variants", format="d"),
        Column(key="stopped", header="given up", format="d"),
        Column(key="steps", header="training steps", format=",d"),
        Column(key="front", header="on the front", format="d"),
        Column(key="hypervolume", header="hypervolume", unit="% of the larger", format=".1f"),
    )
    return Table(
        title=f"{a.space.name} and {b.space.name}",
        columns=columns,
        rows=tuple(
            Row(
                values={
                    "study": f"{name} ({study.out})",
                    "variants": len({record.fingerprint for record in study.records}),
                    "stopped": sum(record.state == "stopped" for record in study.records),
                    "steps": sum(record.steps for record in study.records),
                    "front": len(rows[name]),
                    "hypervolume": 100 * volumes[name] / best,
                }
            )
            for name, study in studies.items()
        ),
        footer=("Hypervolumes have one reference point, beyond the worst of both studies.",),
    )


def ranking_table(studies: Mapping[str, StudyResult]) -> Table:
    """Return how alike each two of several studies rank the variants that both trained.

    Args:
        studies: by the name that the table gives them.

    Raises:
        LabError: two of them share too few variants.
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
        agreement = rank_agreement(*(studies[name].records for name in pair))
        values: dict[str, Value] = {
            "variants": agreement.variants,
            "tau": Interval(value=agreement.tau, low=agreement.low, high=agreement.high),
        }
        sides = zip(_SIDES, pair, agreement.seeds, agreement.ceilings, strict=True)
        for side, name, seeds, ceiling in sides:
            values |= {side: name, f"{side}_seeds": seeds, f"{side}_ceiling": ceiling}
        rows.append(Row(values=values))
    return Table(
        title="Ranking by Lagrangian cost",
        columns=columns,
        rows=tuple(rows),
        footer=(
            "τ between means over seeds, with the interval that 95 % of the resamples of variants "
            "and seeds fill; beside it what one seed's ranking shares with another's.",
        ),
    )


def _front(study: StudyResult) -> list[TrialRecord]:
    return [s.records[0] for s in summarise(study.records, study.space) if s.on_front]


def _variants(a: StudyResult, b: StudyResult) -> Table:
    sides = {
        name: {s.records[0].fingerprint: s for s in summarise(study.records, study.space)}
        for name, study in (("A", a), ("B", b))
    }
    objectives = a.space.objectives
    columns = [Column(key="variant", header="variant")]
    for name in sides:
        columns += [
            FIGURES[figure].model_copy(
                update={"key": f"{name}_{figure}", "group": name, "header": _head(figure)}
            )
            for figure in objectives
        ]
    rows = []
    for fingerprint in {**sides["A"], **sides["B"]}:
        found: dict[str, VariantSummary] = {
            name: side[fingerprint] for name, side in sides.items() if fingerprint in side
        }
        first = next(iter(found.values()))
        values: dict[str, str | float | None] = {"variant": first.label}
        for name, summary in found.items():
            for figure in objectives:
                values[f"{name}_{figure}"] = summary.figures.get(figure)
        on_both = all(summary.on_front for summary in found.values())
        said = tuple(m for m in marks(first) if m != "pareto" or on_both)
        rows.append(Row(values=dict(values), marks=said))
    note = "Pareto-optimal here: on the front of every study that has the variant."
    return Table(title="Variants", columns=tuple(columns), rows=tuple(rows), footer=(note,))


def _head(figure: str) -> str:
    return FIGURES[figure].header if FIGURES[figure].group != "MACs" else figure.split("_")[0]


def compare_folders(first: Path, second: Path) -> list[Table]:
    """Return the comparison of the studies in two folders.

    Raises:
        LabError: a folder holds no study, or the studies don't compare.
    """
    from tcm_lab.study.result import open_result

    return compare_studies(open_result(first), open_result(second))

"""Finalists: variants that a search by an estimator has chosen, and their trained costs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tcm_lab import reporting
from tcm_lab.errors import LabError
from tcm_lab.metrics import ESTIMATED
from tcm_lab.reporting import AgreementPoint, Column, PlotAxis, Row, Table, Value
from tcm_lab.stats import Interval
from tcm_lab.study.agreement import Agreement, agreement
from tcm_lab.study.estimators import Train
from tcm_lab.study.result import StudyResult
from tcm_lab.study.space import Space
from tcm_lab.study.summary import VariantSummary, summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMES = ("number", "name", "listed")
_ZERO = Interval(value=0.0, low=0.0, high=0.0)  # the baseline against itself


@dataclass(frozen=True)
class Finalists:
    """The finalists of a search.

    Attributes:
        space: the study's space, with ``train`` as its estimator.
        predicted: results of the estimator, in the order of ``trained``.
        trained: results of training the same variants, the baseline first.
        agreement: agreement of the two; None for fewer than three variants.
    """

    space: Space
    predicted: Sequence[VariantSummary]
    trained: Sequence[VariantSummary]
    agreement: Agreement | None


def trained_of(
    finalists: Finalists | None, summaries: Sequence[VariantSummary]
) -> Sequence[VariantSummary]:
    """Return the variants that a study has trained: its finalists if there are any, else all."""
    return summaries if finalists is None else finalists.trained


def finalists_of(result: StudyResult, summaries: Sequence[VariantSummary]) -> Finalists | None:
    """Return a study's finalists; None if there are none, or their baseline is not trained yet.

    Args:
        result: the study.
        summaries: results of the study's estimator, whose names the finalists keep.
    """
    records = result.finalists
    if not any(record.is_baseline for record in records):
        return None
    space = result.space.model_copy(update={"estimator": Train()})
    known = {summary.first.fingerprint: summary for summary in summaries}
    trained = [
        summary.model_copy(update={name: getattr(same, name) for name in _NAMES})
        for summary in summarise(records, space)
        if (same := known.get(summary.first.fingerprint)) is not None
    ]
    ranking = None
    with suppress(LabError):  # too few
        ranking = agreement(result.searched, records)
    predicted = [known[summary.first.fingerprint] for summary in trained]
    return Finalists(space, predicted, trained, ranking)


def predicted_table(found: Finalists, estimator: str) -> Table:
    """Return a table of each finalist's predicted and trained cost."""
    cost = {"unit": "%", "format": "+.2f", "group": "Lagrangian cost vs baseline"}
    numbered = found.trained[0].number is not None
    columns = (
        *([Column(key="number", header="#", format="d")] if numbered else []),
        Column(key="variant", header="variant"),
        Column(key="predicted", header=f"by {estimator}", **cost),
        Column(key="trained", header="trained", **cost),
        Column(key="gap", header="predicted minus trained", unit="%", format="+.2f"),
    )
    rows = []
    for before, after in _pairs(found):
        values: dict[str, Value] = {
            "number": after.number,
            "variant": after.listed,
            "predicted": _cost(before),
            "trained": _cost(after),
            "gap": _cost(before).value - _cost(after).value,
        }
        rows.append(Row(values=values, marks=after.marks, name=after.name).within(columns))
    return Table(
        title="Predicted and trained",
        columns=columns,
        rows=tuple(rows),
        footer=(finalist_finding(found, estimator),),
    )


def predicted_plot(found: Finalists, estimator: str) -> Figure:
    """Plot predicted against trained costs."""
    points = [
        AgreementPoint(label=after.name, predicted=_cost(before), trained=_cost(after))
        for before, after in _pairs(found)
    ]
    axes = [
        PlotAxis(name=f"Lagrangian cost vs baseline, {how}", unit="%")
        for how in (f"by {estimator}", "trained")
    ]
    return reporting.agreement_plot(points, *axes)


def finalist_finding(found: Finalists, estimator: str) -> str:
    """Describe in words how well predicted and trained costs agree."""
    count, steps = len(found.trained) - 1, found.trained[0].first.recipe.steps
    start = f"{count} finalists of {estimator} and the baseline were trained for {steps:,} steps: "
    if found.agreement is None:
        return f"{start}too few for a ranking."
    tau, bias = found.agreement.rank.tau, found.agreement.bias
    return (
        f"{start}Kendall's τ between predicted and trained cost is {tau.value:+.2f} "
        f"[{tau.low:+.2f}, {tau.high:+.2f}], predictions are off by {bias.value:+.2f} % "
        f"[{bias.low:+.2f}, {bias.high:+.2f}] on average. Finalists are similar, so their order "
        "is harder to predict than that of all variants."
    )


def _pairs(found: Finalists) -> list[tuple[VariantSummary, VariantSummary]]:
    pairs = zip(found.predicted, found.trained, strict=True)
    return [(a, b) for a, b in pairs if {ESTIMATED} <= a.metrics.keys() & b.metrics.keys()]


def _cost(summary: VariantSummary) -> Interval:
    return summary.intervals.get(ESTIMATED, _ZERO)

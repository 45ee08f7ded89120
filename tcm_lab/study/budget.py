"""How differences from the baseline change with the training budget: a table and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import expm1
from typing import TYPE_CHECKING

import numpy as np

from tcm_lab import reporting
from tcm_lab.errors import LabError
from tcm_lab.metrics import ESTIMATED
from tcm_lab.reporting import BudgetSeries, Column, PlotAxis, Row, Table, Value
from tcm_lab.stats import IncompleteInterval, Interval
from tcm_lab.study.estimators import Comparison
from tcm_lab.study.estimators.extrapolation import Extrapolation, extrapolate
from tcm_lab.study.estimators.paired_curve import (
    PairedCurve,
    mean_of_rows,
    paired_curve,
    paired_rows,
)
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.summary import VariantSummary, noise_for, of_same_seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMES: tuple[int, int] = (10, 100)
_SEEDS, _ONE_SEED = " and seeds", ", and over seeds as far as their noise was measured"
_MOST_SERIES, _MOST_ROWS = 8, 40


@dataclass(frozen=True)
class Course:
    """How one variant's difference from the baseline changes during training.

    Attributes:
        summary: the variant.
        curve: the paired training losses.
        ahead: their extrapolation to larger budgets; None if there are too few to fit.
        rungs: differences of the costs evaluated during training, by step.
    """

    summary: VariantSummary
    curve: PairedCurve
    ahead: Extrapolation | None
    rungs: dict[int, Interval]


def courses(summaries: Sequence[VariantSummary]) -> list[Course]:
    """Return the course of every variant whose losses, and the baseline's, were recorded.

    If there are many variants, only those on the front are included.
    """
    baseline, *others = [summary for summary in summaries if summary.is_complete]
    if len(others) > _MOST_ROWS:
        others = [summary for summary in others if summary.on_front]
    result = []
    for summary in others:
        base = of_same_seeds(summary.records, baseline.records)
        if base is None:
            continue
        compared = Comparison(summary.records, base, noise=noise_for(summary.records, base))
        sd = compared.seed_sd_loss
        with suppress(LabError):  # records without losses
            rows = paired_rows(compared)
            ahead = None
            with suppress(LabError):  # too few rows
                end = summary.first.recipe.comparable_until
                ahead = extrapolate(rows, end=end, seed_sd=sd)
            curve = paired_curve(rows, seed_sd=sd)
            result.append(Course(summary, curve, ahead, _rungs(summary.records, base)))
    return result


def _rungs(own: Sequence[TrialRecord], baseline: Sequence[TrialRecord]) -> dict[int, Interval]:
    """Return the differences of evaluations during training, by step, over the seeds."""
    sides = [[{rung.step: rung.lagrangian for rung in r.rungs} for r in s] for s in (own, baseline)]
    steps = set.intersection(*(set(rungs) for side in sides for rungs in side))
    differences = {}
    for step in sorted(steps):
        each = [100 * expm1(a[step] - b[step]) for a, b in zip(*sides, strict=True)]
        differences[step] = mean_of_rows(np.array(each)[:, None], noise=0.0)
    return differences


def budget_table(found: Sequence[Course]) -> Table:
    """Return a table of each difference during training, when it settled, and its prediction."""
    loss = {"group": "training loss vs baseline", "unit": "%", "format": "+.2f"}
    ahead = {"group": "predicted loss vs baseline", "unit": "%", "format": "+.2f"}
    steps, halfway = found[0].curve.steps, _halfway(found[0].curve)
    several = all(len(each.summary.records) > 1 for each in found)
    columns = (
        Column(key="variant", header="variant"),
        Column(key="half", header=f"at {found[0].curve.ends[halfway]:,} steps", **loss),
        Column(key="end", header=f"at {steps:,}", **loss),
        Column(key="evaluated", header="evaluated cost vs baseline", unit="%", format="+.2f"),
        Column(key="course", header="course"),
        *(Column(key=f"at_{t}x", header=f"at {t} times the steps", **ahead) for t in TIMES),
        Column(key="reach", header="order holds up to"),
    )
    rows = []
    for each in found:
        curve = each.curve
        values: dict[str, Value] = {
            "variant": each.summary.called,
            "half": curve.windows[_halfway(curve)],
            "end": curve.last,
            "evaluated": each.summary.intervals.get(ESTIMATED),
            "course": _course(each),
            "reach": _reach(each),
        }
        if each.ahead is not None:
            values |= {f"at_{t}x": each.ahead.at(steps * t) for t in TIMES}
        rows.append(Row(values=values, name=each.summary.name))
    return Table(
        title="How the differences move with the budget",
        columns=columns,
        rows=tuple(rows),
        footer=(
            f"Training losses on the same crops, noise and rates: means over windows of "
            f"{steps // len(found[0].curve.windows):,} steps, every rate with equal weight; "
            f"intervals over steps{_SEEDS if several else _ONE_SEED}.",
            "Predictions: a power law of the steps, fitted from a fifth of them up to any "
            "cooldown; intervals include the uncertainty of its power. They hold for a longer "
            "training with the same schedule, and are hypotheses until trained.",
        ),
    )


def _halfway(curve: PairedCurve) -> int:
    """Return the index of the last window in the first half of the steps, or else of the first."""
    return max(sum(end <= curve.steps / 2 for end in curve.ends) - 1, 0)


def _course(each: Course) -> str:
    """Describe the curve so far and, if it can be predicted, its next change of sign."""
    curve, words = each.curve, list[str]()
    if curve.crossed is not None:
        words.append(f"crossed by step {curve.crossed:,}")
    since = curve.unchanged_since
    words.append("still moves" if since is None else f"no change seen since step {since:,}")
    turn = each.ahead and each.ahead.turns(curve.steps * TIMES[-1])
    if turn:
        words.append(
            f"will cross at about {round(turn.value, -2):,.0f} steps "
            f"[{round(turn.low, -2):,.0f}, {round(turn.high, -2):,.0f}]"
        )
    return "; ".join(words)


def _reach(each: Course) -> str:
    """Describe the largest budget for which the sign of the difference is certain."""
    evaluated = each.summary.intervals.get(ESTIMATED)
    if isinstance(evaluated, IncompleteInterval):
        return f"unknown without more {evaluated.lacks}"
    if each.ahead is None:
        return "too few losses to tell"
    times = each.ahead.widest(TIMES[-1])
    # Losses alone decide nothing if the evaluated cost does not agree.
    agrees = evaluated is None or (
        evaluated.excludes_zero and evaluated.value * each.curve.last.value > 0
    )
    if not (times and agrees):
        return "no budget: within chance"
    if times >= TIMES[-1]:
        return f"{TIMES[-1]} times the steps, or more"
    return "this budget alone" if times < 1.2 else f"{times:.1f} times the steps"


def budget_plot(found: Sequence[Course]) -> Figure:
    """Plot the courses; if there are many, those that end farthest from the baseline."""
    farthest = sorted(range(len(found)), key=lambda i: -abs(found[i].curve.last.value))
    series = []
    for each in (found[i] for i in sorted(farthest[:_MOST_SERIES])):
        summary, curve, then = each.summary, each.curve, each.curve.steps * TIMES[0]
        coded = summary.intervals.get(ESTIMATED)
        series.append(
            BudgetSeries(
                label=summary.name,
                steps=curve.ends,
                windows=curve.windows,
                evaluated=each.rungs | ({curve.steps: coded} if coded else {}),
                predicted={then: each.ahead.at(then)} if each.ahead else {},
            )
        )
    return reporting.budget_plot(series, PlotAxis(name="difference from the baseline", unit="%"))

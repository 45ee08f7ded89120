"""The results of a study by variant: metrics over all seeds, their intervals, and the front."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import cycle
from statistics import fmean

from pydantic import Field

from tcm_lab._utils import Frozen
from tcm_lab.errors import LabError
from tcm_lab.evaluation import bd_rate_interval, lagrangian_interval
from tcm_lab.metrics import METRICS, Number
from tcm_lab.reporting import pareto_front
from tcm_lab.stats import Draw, Interval, bootstrap
from tcm_lab.study.axes import Key
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.space import Space

_SAMPLES = 400


class VariantSummary(Frozen):
    """One variant, over all its seeds.

    Attributes:
        label: its name in tables.
        params: the key of every axis that acts.
        records: its trainings, by seed.
        metrics: every known metric by name.
        intervals: of the metrics relative to the baseline.
        differences: from the baseline, of the objectives that only training tells.
        on_front: whether it is Pareto-optimal among the complete variants that keep the soft
            constraints.
    """

    label: str
    params: dict[str, Key]
    records: tuple[TrialRecord, ...]
    metrics: dict[str, Number]
    intervals: dict[str, Interval] = Field(default_factory=dict)
    differences: dict[str, Interval] = Field(default_factory=dict)
    on_front: bool = False

    @property
    def is_baseline(self) -> bool:
        """Whether the others are compared with it."""
        return self.records[0].is_baseline

    @property
    def is_complete(self) -> bool:
        """Whether it was trained to the end."""
        return self.records[0].state == "complete"

    @property
    def is_feasible(self) -> bool:
        """Whether it keeps the soft constraints."""
        return self.records[0].feasible


def summarise(records: Sequence[TrialRecord], space: Space) -> list[VariantSummary]:
    """Return the variants in the order of their first trials, the baseline first.

    Raises:
        LabError: the baseline is not among them.
    """
    trainings: dict[str, list[TrialRecord]] = {}
    for record in sorted(records, key=lambda record: (record.seed, record.number)):
        trainings.setdefault(record.fingerprint, []).append(record)
    baseline = next((group for group in trainings.values() if group[0].is_baseline), None)
    if baseline is None:
        raise LabError("the baseline is not trained yet, so there is nothing to compare with")
    groups = [baseline, *(group for group in trainings.values() if group is not baseline)]
    return _mark_front([_summary(group, baseline, space) for group in groups], space)


def is_established(summary: VariantSummary, baseline: VariantSummary, space: Space) -> bool:
    """Return whether a variant is better than the baseline in at least one objective.

    An objective that only training tells counts if the interval of its difference excludes 0.
    """
    for metric in (METRICS[name] for name in space.objectives):
        if metric.needs_training:
            difference = summary.differences.get(metric.name)
            if difference and difference.excludes_zero and metric.loss(difference.value) < 0:
                return True
        else:
            pair = [each.metrics.get(metric.name) for each in (summary, baseline)]
            ours, theirs = (float("nan") if v is None else metric.loss(v) for v in pair)
            if ours < theirs:
                return True
    return summary.is_baseline


def _summary(
    group: Sequence[TrialRecord], baseline: Sequence[TrialRecord], space: Space
) -> VariantSummary:
    metrics: dict[str, Number] = {}
    intervals: dict[str, Interval] = {}
    differences: dict[str, Interval] = {}
    for name, metric in METRICS.items():
        if group is not baseline and group[0].state == "complete":
            with suppress(LabError):  # these curves are not comparable
                if metric.relative or (metric.needs_training and name in space.objectives):
                    differences[name] = _difference(name, group, baseline, space)
            if metric.relative and name in differences:
                intervals[name] = differences[name]
                metrics[name] = differences[name].value
        if not metric.relative or group is baseline:
            values = [value for r in group if (value := metric.known(r, r)) is not None]
            if values:
                metrics[name] = fmean(values) if metric.needs in ("timing", "rd") else values[0]
    return VariantSummary(
        label=group[0].label,
        params=group[0].params,
        records=tuple(group),
        metrics=metrics,
        intervals=intervals,
        differences=differences,
    )


def _difference(
    name: str, group: Sequence[TrialRecord], baseline: Sequence[TrialRecord], space: Space
) -> Interval:
    """Return the difference from the baseline, with its interval over images and seeds.

    Raises:
        LabError: the evaluations are not comparable.
    """
    anchor, curve = ([record.rd for record in side] for side in (baseline, group))
    if name == "bd_rate_percent":
        return bd_rate_interval(anchor, curve, samples=_SAMPLES, seed=space.seed)
    if name == "lagrangian_percent":
        return lagrangian_interval(
            anchor, curve, lambdas=group[0].lambdas, samples=_SAMPLES, seed=space.seed
        )
    metric = METRICS[name]

    def mean(draw: Draw) -> float:
        values = []
        for own, other in zip(draw["seeds"], cycle(draw["baseline seeds"]), strict=False):
            record, base = _drawn(group[own], draw), _drawn(baseline[other], draw)
            ours = metric.of(record, base)
            theirs = 0 if metric.relative else metric.of(base, base)
            values.append(float("nan") if ours is None or theirs is None else ours - theirs)
        return fmean(values)

    images = len(group[0].rd.points[0].images)
    units = {"images": images, "seeds": len(group), "baseline seeds": len(baseline)}
    return bootstrap(mean, units, samples=_SAMPLES, seed=space.seed)


def _drawn(record: TrialRecord, draw: Draw) -> TrialRecord:
    """Return a training as if it had been evaluated on the drawn images."""
    points = tuple(
        point.model_copy(update={"images": tuple(point.images[i] for i in draw["images"])})
        for point in record.rd.points
    )
    return record.model_copy(update={"rd": record.rd.model_copy(update={"points": points})})


def _mark_front(summaries: list[VariantSummary], space: Space) -> list[VariantSummary]:
    def losses(summary: VariantSummary) -> list[float]:
        nan = float("nan")
        if not (summary.is_complete and summary.is_feasible):
            return [nan] * len(space.objectives)
        return [METRICS[n].loss(summary.metrics.get(n, nan)) for n in space.objectives]

    marks = pareto_front([losses(summary) for summary in summaries])
    return [
        summary.model_copy(update={"on_front": mark})
        for summary, mark in zip(summaries, marks, strict=True)
    ]

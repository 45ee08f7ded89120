"""The results of a study by variant: metrics over all seeds, their intervals, and the front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from statistics import fmean, variance
from typing import Any

import numpy as np

from tcm_lab._utils import Frozen
from tcm_lab.errors import LabError
from tcm_lab.evaluation import (
    RdCurve,
    RdRecord,
    Seeds,
    bd_rate_interval,
    lagrangian_percent,
    mean_curve,
)
from tcm_lab.metrics import ESTIMATED, METRICS, Metric, Number
from tcm_lab.reporting import Mark, Value, pareto_front
from tcm_lab.stats import (
    Draw,
    IncompleteInterval,
    Interval,
    bootstrap,
    group_letters,
    mean_noise,
    over_images,
)
from tcm_lab.study.axes import show
from tcm_lab.study.estimators import Comparison
from tcm_lab.study.noise import Noise, design_in, noise_between
from tcm_lab.study.record import TrialRecord, baseline_of
from tcm_lab.study.space import Space

_SAMPLES = 400
_FEWEST_RANKED, _MOST_RANKED = 3, 24
_FEWEST_SEEDS = 2
_DENIED = 0.05  # significance level at which seeds contradict the measured noise
_LEAST_SD = 1e-9  # percent
_LONGEST_NAME = 24  # characters: longer names hide the points of a plot


class VariantSummary(Frozen):
    """One variant, over all its seeds.

    Attributes:
        records: records of its trainings, in order of seed.
        metrics: every known metric by name.
        intervals: intervals of the metrics relative to the baseline.
        is_established: whether it is the baseline, or better in at least one objective. An
            objective known only after training counts if the interval of its difference excludes
            0; an interval that leaves out the variation between seeds never counts, nor does a
            measured time, which has no interval.
        on_front: whether it is Pareto-optimal among the complete variants that satisfy the soft
            constraints.
        number: number of its row, if a label is too long for a plot.
        group: letters of the groups of variants not distinguishable by quality.
        name: name in plots: that number, in an ablation what it changes, or else its label.
        listed: name in tables: its label or, if labels are long, what it changes in the baseline.
    """

    records: tuple[TrialRecord, ...]
    metrics: dict[str, Number]
    intervals: dict[str, Interval]
    is_established: bool
    on_front: bool = False
    group: str = ""
    number: int | None = None
    name: str = ""
    listed: str = ""

    @property
    def first(self) -> TrialRecord:
        """Its first training."""
        return self.records[0]

    @property
    def label(self) -> str:
        """Its value on every axis."""
        return self.first.label

    @property
    def called(self) -> str:
        """Its name in sentences: its number in the table if labels are long, else its label."""
        return self.label if self.number is None else self.name

    @property
    def is_baseline(self) -> bool:
        """Whether it is the baseline of the others."""
        return self.first.is_baseline

    @property
    def is_complete(self) -> bool:
        """Whether it was trained to the end."""
        return self.first.state == "complete"

    @property
    def evaluations(self) -> list[RdRecord]:
        """The evaluations of those trainings that have one."""
        return [record.rd for record in self.records if record.rd is not None]

    def value(self, name: str) -> Value:
        """Return a metric, with its interval if it has one; None if it is not known."""
        return self.intervals.get(name, self.metrics.get(name))

    @property
    def payload_curve(self) -> RdCurve:
        """Its curve of rates without headers, averaged over the seeds."""
        return mean_curve(self.evaluations, self.label, counted="payload")

    @property
    def marks(self) -> tuple[Mark, ...]:
        """The marks of its row in tables."""
        holds: dict[Mark, bool] = {
            "pareto": self.on_front and self.is_established,
            "pareto-by-mean": self.on_front and not self.is_established,
            "baseline": self.is_baseline,
            "partial": not self.is_complete,
            "infeasible": not self.first.feasible,
        }
        return tuple(mark for mark, held in holds.items() if held)


def summarise(records: Sequence[TrialRecord], space: Space) -> list[VariantSummary]:
    """Return the variants in the order of the grid or of their first trials, the baseline first.

    Records from an estimator other than the space's, such as those of finalists, are skipped.

    Raises:
        LabError: the baseline is missing.
    """
    records = [record for record in records if record.estimator == space.estimator]
    trainings: dict[str, list[TrialRecord]] = {}

    def place(record: TrialRecord) -> tuple[Any, ...]:
        return (not record.is_baseline, record.seed, space.place(record.params), record.number)

    for record in sorted(records, key=place):
        trainings.setdefault(record.fingerprint, []).append(record)
    baseline = trainings[baseline_of(records).fingerprint]
    summaries = [_summary(group, baseline, space) for group in trainings.values()]
    letters = _groups(summaries, space)
    fronts = pareto_front([_losses(summary, space) for summary in summaries])
    ablation = space.mode == "ablation"
    numbered = not ablation and any(len(s.label) > _LONGEST_NAME for s in summaries)
    completed = []
    for number, (summary, front) in enumerate(zip(summaries, fronts, strict=True), 1):
        change = _change(summary, summaries[0], space) if ablation or numbered else ""
        update = {
            "on_front": front,
            "group": letters.get(summary.first.fingerprint, ""),
            "number": number if numbered else None,
            "name": f"#{number}" if numbered else change or summary.label,
            "listed": change if numbered else summary.label,
        }
        completed.append(summary.model_copy(update=update))
    return completed


def _groups(summaries: Sequence[VariantSummary], space: Space) -> dict[str, str]:
    """Return the group letters of each variant, by fingerprint, if few variants are compared.

    There are none for a study with one training each, which cannot tell variants apart.
    """
    metric = space.quality
    ranked = sorted(
        (s for s in summaries if s.is_complete and metric.name in s.metrics),
        key=lambda s: metric.loss(s.metrics[metric.name]),
    )
    if not metric.relative or not _FEWEST_RANKED <= len(ranked) <= _MOST_RANKED:
        return {}
    intervals = [s.intervals[metric.name] for s in ranked if not s.is_baseline]
    if all(isinstance(interval, IncompleteInterval) for interval in intervals):
        return {}

    def differ(i: int, j: int) -> bool:
        # Paired if the seeds of the one with fewer trainings are among the other's.
        fewer, more = sorted((ranked[j].records, ranked[i].records), key=len)
        with suppress(LabError):
            return _difference(metric, fewer, more, space).excludes_zero
        return False

    letters = group_letters(len(ranked), differ)
    return dict(zip((s.first.fingerprint for s in ranked), letters, strict=True))


def _losses(summary: VariantSummary, space: Space) -> list[float]:
    if not (summary.is_complete and summary.first.feasible):
        return [math.nan] * len(space.objectives)
    return [METRICS[name].loss(summary.metrics.get(name, math.nan)) for name in space.objectives]


def _change(summary: VariantSummary, baseline: VariantSummary, space: Space) -> str:
    if summary.is_baseline:
        return space.baseline.name
    before, now = baseline.first.params, summary.first.params
    return ", ".join(
        f"{name} {show(before[name])} → {show(key)}"
        if name in before and space.axes[name].kind != "override"
        else space.axes[name].label(name, key)
        for name, key in now.items()
        if name not in before or before[name] != key
    )


def _summary(
    group: Sequence[TrialRecord], baseline: Sequence[TrialRecord], space: Space
) -> VariantSummary:
    metrics: dict[str, Number] = {}
    intervals: dict[str, Interval] = {}
    is_established = group is baseline
    is_compared = group is not baseline and group[0].state == "complete"
    for name, metric in METRICS.items():
        is_objective = name in space.objectives
        value = None if metric.relative and group is not baseline else _mean(metric, group)
        difference = None
        if is_compared and (metric.relative or (metric.needs_training and is_objective)):
            with suppress(LabError):  # curves that are not comparable
                difference = _difference(metric, group, baseline, space)
        if metric.relative and difference is not None:
            intervals[name], value = difference, difference.value
        if value is not None:
            metrics[name] = value
        if is_objective and metric.needs_training:
            if difference is not None and difference.excludes_zero:
                is_established |= metric.loss(difference.value) < 0
        elif is_objective and metric.needs != "timing":
            pair = (value, _mean(metric, baseline))
            ours, theirs = (math.nan if each is None else metric.loss(each) for each in pair)
            is_established |= ours < theirs
    return VariantSummary(
        records=tuple(group), metrics=metrics, intervals=intervals, is_established=is_established
    )


def _mean(metric: Metric, group: Sequence[TrialRecord]) -> Number | None:
    """Return a metric's mean over the seeds; a count does not depend on them."""
    values = [value for r in group if (value := metric.known(r, r)) is not None]
    if not values:
        return None
    return fmean(values) if metric.needs in ("timing", "rd") else values[0]


def _difference(
    metric: Metric, group: Sequence[TrialRecord], baseline: Sequence[TrialRecord], space: Space
) -> Interval:
    """Return the difference of two variants, with its interval over images and seeds.

    The interval is incomplete with a single image, or with a single training on one side and no
    measured noise of the paired difference that the estimator takes into account.

    Raises:
        LabError: the evaluations are not comparable.
    """
    interval = _over_images_and_seeds(metric, group, baseline, space)
    # Unpaired, the noise covers only the side with several trainings.
    is_known = interval.noise and of_same_seeds(group, baseline) is not None
    if isinstance(interval, IncompleteInterval) or is_known or min(len(group), len(baseline)) > 1:
        return interval
    return IncompleteInterval(**dict(interval))


def of_same_seeds(
    group: Sequence[TrialRecord], baseline: Sequence[TrialRecord]
) -> list[TrialRecord] | None:
    """Return the baseline's trainings with the seeds of a group; None if one is missing."""
    own = {record.seed for record in group}
    pair = [record for record in baseline if record.seed in own]
    return pair if len(pair) == len(group) else None


def noise_for(
    group: Sequence[TrialRecord], baseline: Sequence[TrialRecord], *, design: str | None = None
) -> Noise | None:
    """Return the measured noise of two codecs' difference, unless their own seeds contradict it.

    They do if they vary by significantly more (one F-test in twenty says so by chance). The
    available seeds then widen the interval, as if nothing had been measured. ``design`` is that of
    `noise_between`.
    """
    noise = noise_between(group[0], baseline[0], design=design)
    pair = of_same_seeds(group, baseline)
    if noise is None or pair is None or len(pair) < _FEWEST_SEEDS:
        return noise
    base = {record.seed: record for record in pair}
    try:
        costs = [
            lagrangian_percent(base[own.seed].evaluation, own.evaluation, lambdas=own.lambdas)
            for own in group
        ]
    except LabError:  # estimated, not evaluated
        return noise
    from scipy.special import fdtrc

    ratio = variance(costs) / max(noise.seed_sd, _LEAST_SD) ** 2
    return None if fdtrc(len(costs) - 1, noise.freedom, ratio) < _DENIED else noise


def _over_images_and_seeds(
    metric: Metric, group: Sequence[TrialRecord], baseline: Sequence[TrialRecord], space: Space
) -> Interval:
    """Return the difference with its interval over the images and seeds that there are.

    Variants share the random numbers of a seed, so seeds common to both sides are paired. The
    Lagrangian cost is compared by its estimator.
    """
    pair = of_same_seeds(group, baseline)
    paired, base = pair is not None, pair or baseline
    how: dict[str, Any] = {"samples": _SAMPLES, "seed": space.seed}
    noise = noise_for(group, baseline, design=design_in(space))
    if metric.name == ESTIMATED:
        compared = Comparison(group, base, paired=paired, noise=noise, **how)
        return group[0].estimator.difference(compared)
    if metric.name == "bd_rate_percent":
        anchor, curve = ([r.evaluation for r in side] for side in (base, group))
        sd = noise.widened(noise.seed_sd_bd) if noise and noise.seed_sd_bd and paired else None
        return bd_rate_interval(anchor, curve, seeds=Seeds(paired=paired, sd_percent=sd), **how)

    def difference(record: TrialRecord, other: TrialRecord, draw: Draw) -> float:
        own, drawn = _drawn(record, draw), _drawn(other, draw)
        ours = metric.of(own, drawn)
        theirs = 0 if metric.relative else metric.of(drawn, drawn)
        return math.nan if ours is None or theirs is None else ours - theirs

    def differences(draw: Draw) -> list[list[float]]:
        """Return each seed's difference to its partner, or to each of the baseline's seeds."""
        others = [[other] for other in base] if paired else [base] * len(group)
        return [
            [difference(record, other, draw) for other in row]
            for record, row in zip(group, others, strict=True)
        ]

    units = {"images": len(group[0].evaluation.points[0].images)}
    whole = np.array(differences({"images": np.arange(units["images"])}))
    between = math.hypot(mean_noise(whole.mean(1)), mean_noise(whole.mean(0)))
    interval = bootstrap(
        lambda draw: float(np.mean(differences(draw))), units, noise=between, **how
    )
    return over_images(interval)


def _drawn(record: TrialRecord, draw: Draw) -> TrialRecord:
    """Return a training as if it had been evaluated on the drawn images."""
    rd = record.evaluation
    points = tuple(
        point.model_copy(update={"images": tuple(point.images[i] for i in draw["images"])})
        for point in rd.points
    )
    return record.model_copy(update={"rd": rd.model_copy(update={"points": points})})

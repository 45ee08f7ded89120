"""What a study found, variant by variant: means over seeds, intervals, and who is on the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from statistics import fmean

from pydantic import Field

from tcm_lab._utils import Frozen
from tcm_lab.errors import LabError
from tcm_lab.evaluation import RdRecord, bd_rate_interval, lagrangian_interval
from tcm_lab.reporting import pareto_front
from tcm_lab.stats import Interval
from tcm_lab.study.axes import Key
from tcm_lab.study.figures import cost_of
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.space import TRAINED, Space

_SAMPLES = 400


class VariantSummary(Frozen):
    """One variant, over all its seeds.

    Attributes:
        label: what tables call it.
        params: the key of every axis that acts.
        records: its trainings, by seed.
        figures: every known figure by name; trained ones against the baseline.
        intervals: of the trained ones.
        on_front: whether no complete variant that keeps the soft constraints beats it.
    """

    label: str
    params: dict[str, Key]
    records: tuple[TrialRecord, ...]
    figures: dict[str, float]
    intervals: dict[str, Interval] = Field(default_factory=dict)
    on_front: bool = False

    @property
    def is_baseline(self) -> bool:
        """Whether the others are judged against it."""
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
        raise LabError("the baseline is not finished yet, so there is nothing to compare with")
    groups = [baseline, *(group for group in trainings.values() if group is not baseline)]
    summaries = [_summary(group, baseline, space) for group in groups]
    return _mark_front(summaries, space)


def _summary(
    group: Sequence[TrialRecord], baseline: Sequence[TrialRecord], space: Space
) -> VariantSummary:
    first = group[0]
    figures = dict(cost_of(first).figures)
    intervals: dict[str, Interval] = {}
    if first.state == "complete":
        ours = [record.rd for record in group if record.state == "complete"]
        anchor = [record.rd for record in baseline]
        for point in ("encode_ms", "decode_ms"):
            coded = fmean(getattr(at, point) for rd in ours for at in rd.points)
            figures.setdefault(point, coded)
        if group is baseline:
            figures |= dict.fromkeys(TRAINED, 0.0)
        else:
            intervals = _intervals(anchor, ours, first.lambdas, space.seed)
            figures |= {name: interval.value for name, interval in intervals.items()}
    return VariantSummary(
        label=first.label,
        params=first.params,
        records=tuple(group),
        figures=figures,
        intervals=intervals,
    )


def _intervals(
    anchor: Sequence[RdRecord], ours: Sequence[RdRecord], lambdas: Sequence[float], seed: int
) -> dict[str, Interval]:
    """Return the trained figures with their intervals; a BD-rate that is refused is left out."""
    found = {
        "lagrangian_percent": lagrangian_interval(
            anchor, ours, lambdas=lambdas, samples=_SAMPLES, seed=seed
        )
    }
    with suppress(LabError):
        found["bd_rate_percent"] = bd_rate_interval(anchor, ours, samples=_SAMPLES, seed=seed)
    return found


def _mark_front(summaries: list[VariantSummary], space: Space) -> list[VariantSummary]:
    def row(summary: VariantSummary) -> list[float]:
        eligible = summary.is_complete and summary.is_feasible
        nan = float("nan")
        return [summary.figures.get(name, nan) if eligible else nan for name in space.objectives]

    marks = pareto_front([row(summary) for summary in summaries])
    return [
        summary.model_copy(update={"on_front": mark})
        for summary, mark in zip(summaries, marks, strict=True)
    ]


def hypervolume_history(records: Sequence[TrialRecord], space: Space) -> list[tuple[int, float]]:
    """Return, after each finished training, the share of the final front's volume.

    The reference point is a tenth of the range beyond the worst figure of each objective.
    """
    from tcm_lab.study.hypervolume import hypervolume

    firsts = [record for record in records if record.state == "complete" and record.seed == 0]
    firsts = [record for record in firsts if record.feasible]
    rows = [objective_row(record, space) for record in sorted(firsts, key=lambda r: r.number)]
    rows = [row for row in rows if row is not None]
    if len(rows) < 2:
        return []
    columns = list(zip(*rows, strict=True))
    reference = [max(c) + 0.1 * ((max(c) - min(c)) or 1.0) for c in columns]
    whole = hypervolume(rows, reference)
    return [(n, hypervolume(rows[:n], reference) / whole) for n in range(1, len(rows) + 1)]


def objective_row(record: TrialRecord, space: Space) -> list[float]:
    """Return a training's objectives as numbers to minimise, with one quality for each kind."""
    from tcm_lab.evaluation import lagrangian_cost

    figures: Mapping[str, float] = cost_of(record).figures
    lagrangian = lagrangian_cost(record.rd, record.lambdas)
    return [lagrangian if name in TRAINED else figures[name] for name in space.objectives]

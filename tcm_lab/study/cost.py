"""What a variant costs before it is trained, and how its metrics compare with a space's bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from tcm_lab._utils import Frozen
from tcm_lab.codec import VariantConfig, build
from tcm_lab.complexity import (
    ComplexityRecord,
    TimingRecord,
    measure_complexity,
    measure_timing,
)
from tcm_lab.metrics import METRICS, Metric, Number
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.space import Space


class VariantCost(Frozen):
    """What is known of a variant before training; metrics are computed from it.

    Attributes:
        complexity: counts at the space's image size.
        timing: of untrained weights, if the space asks for a time.
    """

    complexity: ComplexityRecord
    timing: TimingRecord | None = None

    @property
    def rd(self) -> None:
        """No evaluation yet."""

    @property
    def lambdas(self) -> tuple[float, ...]:
        """No rates yet."""
        return ()

    @property
    def metrics(self) -> dict[str, Number]:
        """Every known metric by name."""
        values = {name: metric.of(self) for name, metric in METRICS.items()}
        return {name: value for name, value in values.items() if value is not None}


def measure_cost(config: VariantConfig, space: Space) -> VariantCost:
    """Count a variant, and measure its memory and times if the space judges by them."""
    wanted = {*space.objectives, *space.constraints, *space.soft_constraints}
    needs = {METRICS[name].needs for name in wanted}
    complexity = measure_complexity(config, space.size, memory="memory" in needs)
    if "timing" not in needs:
        return VariantCost(complexity=complexity)
    codec = build(config).eval()
    codec.update(force=True)
    return VariantCost(complexity=complexity, timing=measure_timing(codec, space.size))


def violations(values: Mapping[str, Number], bounds: Mapping[str, float]) -> dict[str, float]:
    """Return by how much each bound is violated; zero or less if it is kept.

    Bounds are upper ones for metrics to be minimised, lower ones for those to be maximised.
    """
    return {
        name: METRICS[name].loss(values[name]) - METRICS[name].loss(bound)
        for name, bound in bounds.items()
    }


def quality_of(space: Space) -> Metric:
    """Return the first objective that only training tells, or else the Lagrangian cost."""
    trained = (METRICS[name] for name in space.objectives if METRICS[name].needs_training)
    return next(trained, METRICS["lagrangian_percent"])


def objective_losses(
    records: Sequence[TrialRecord], baseline: TrialRecord, space: Space
) -> list[float]:
    """Return a variant's objectives as numbers to be minimised, means over its trainings.

    An objective that a training does not have, such as a BD-rate without overlap, is NaN.
    """
    rows = []
    for record in records:
        values = {name: METRICS[name].known(record, baseline) for name in space.objectives}
        rows.append(
            [float("nan") if v is None else float(METRICS[n].loss(v)) for n, v in values.items()]
        )
    return [fmean(column) for column in zip(*rows, strict=True)]

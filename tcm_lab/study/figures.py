"""The figures that a study minimises or bounds, and where each comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field

from tcm_lab._utils import Frozen
from tcm_lab.codec import VariantConfig
from tcm_lab.complexity import ComplexityRecord
from tcm_lab.evaluation import RdRecord, bd_rate, lagrangian_cost
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.space import Space

_TIMED = ("encode_ms", "decode_ms")


class Cost(Frozen):
    """What is known of a variant before training.

    Attributes:
        complexity: counted, at the space's image size.
        timed_ms: ``encode_ms`` and ``decode_ms`` of untrained weights, if they were asked for.
    """

    complexity: ComplexityRecord
    timed_ms: dict[str, float] = Field(default_factory=dict)

    @property
    def figures(self) -> dict[str, float]:
        """Every known figure by its name."""
        counted = self.complexity
        figures: dict[str, float] = {
            "kmacs_per_px": counted.kmacs_per_px,
            "encode_kmacs_per_px": counted.encode_kmacs_per_px,
            "decode_kmacs_per_px": counted.decode_kmacs_per_px,
            "parameters": counted.total_parameters,
            **self.timed_ms,
        }
        if counted.peak_memory_bytes is not None:
            figures["peak_memory_bytes"] = counted.peak_memory_bytes
        return figures


def measure_cost(config: VariantConfig, space: Space) -> Cost:
    """Count a variant, and time it if the space minimises or bounds a time."""
    from tcm_lab.complexity import measure_complexity

    wanted = {*space.objectives, *space.constraints, *space.soft_constraints}
    complexity = measure_complexity(config, space.size, memory="peak_memory_bytes" in wanted)
    if not wanted.intersection(_TIMED):
        return Cost(complexity=complexity)
    from tcm_lab.codec import build
    from tcm_lab.complexity import measure_timing

    codec = build(config).eval()
    codec.update(force=True)
    timing = measure_timing(codec, space.size)
    times = {"encode_ms": timing.encode_ms, "decode_ms": timing.decode_ms}
    return Cost(complexity=complexity, timed_ms=times)


def exceeded(cost: Cost, space: Space) -> dict[str, tuple[float, float]]:
    """Return the figure and the bound of every hard constraint that a variant is over."""
    figures = cost.figures
    return {
        name: (figures[name], bound)
        for name, bound in space.constraints.items()
        if figures[name] > bound
    }


def trained_figures(
    names: Iterable[str],
    rd: RdRecord,
    baseline: RdRecord | None,
    lambdas: Sequence[float],
) -> dict[str, float]:
    """Return figures that an evaluation tells, as the sampler is told them.

    The Lagrangian cost stands as the mean logarithm that it is: what is a percentage against the
    baseline in a table orders variants just so, and needs no baseline.

    Raises:
        LabError: the BD-rate's curves don't compare.
    """
    figures = {}
    for name in names:
        if name == "lagrangian_percent":
            figures[name] = lagrangian_cost(rd, lambdas)
        elif name == "bd_rate_percent":
            assert baseline is not None, "the baseline is trained first"
            figures[name] = 0.0 if rd is baseline else bd_rate(baseline.curve(), rd.curve()).percent
    return figures


def violations(figures: Mapping[str, float], space: Space) -> dict[str, float]:
    """Return by how much each soft constraint is exceeded; zero or less is kept."""
    return {name: figures[name] - bound for name, bound in space.soft_constraints.items()}


def cost_of(record: TrialRecord) -> Cost:
    """Return what a record knows of its variant's cost."""
    return Cost(complexity=record.complexity, timed_ms=record.timed_ms)

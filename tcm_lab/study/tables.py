"""The tables of a study, from its summaries alone."""

from __future__ import annotations

from collections.abc import Sequence

from tcm_lab.evaluation import MIN_OVERLAP, RdRecord
from tcm_lab.metrics import METRICS
from tcm_lab.reporting import (
    Column,
    Mark,
    Row,
    Table,
    Value,
    environment_lines,
    metric_column,
    rd_table,
)
from tcm_lab.study.axes import show
from tcm_lab.study.space import Space
from tcm_lab.study.summary import VariantSummary, is_established

_LONGEST_NAME = 24  # letters: longer ones hide the points of a plot
_COLUMNS = (
    "parameters", "kmacs_per_px", "encode_kmacs_per_px", "decode_kmacs_per_px",
    "peak_memory_bytes", "decode_peak_memory_bytes", "bpp", "psnr_db", "lagrangian_percent",
    "bd_rate_percent", "encode_ms", "decode_ms",
)  # fmt: skip
"""Metrics that a study's table shows, beside those that the space judges by."""
_CHANGES = ("parameters", "kmacs_per_px", "decode_ms")


def column_of(name: str, **changes: str) -> Column:
    """Return the column of a metric; its best is marked if values are exact or have intervals."""
    metric, column = METRICS[name], metric_column(name, **changes)
    sure = metric.relative or metric.needs in ("complexity", "memory")
    return column if sure else column.model_copy(update={"best": None})


def plot_names(summaries: Sequence[VariantSummary], space: Space) -> list[str]:
    """Return the variants' names in plots: their labels, or their rows if a label is long.

    Variants of an ablation are named by what they change.
    """
    if are_numbered(summaries, space):
        return [f"#{number}" for number in range(1, len(summaries) + 1)]
    if space.mode == "ablation":
        baseline = summaries[0]
        return [
            space.baseline.name,
            *(_change(summary, baseline, space) for summary in summaries[1:]),
        ]
    return [summary.label for summary in summaries]


def are_numbered(summaries: Sequence[VariantSummary], space: Space) -> bool:
    """Return whether plots name the variants by number because a label is too long."""
    return space.mode != "ablation" and any(len(s.label) > _LONGEST_NAME for s in summaries)


def study_tables(summaries: Sequence[VariantSummary], space: Space) -> dict[str, Table]:
    """Return a study's tables by the name of their files."""
    tables = {"table": trial_table(summaries, space), "rates": rate_table(summaries)}
    if space.mode == "ablation":
        tables["ablation"] = ablation_table(summaries, space)
    return tables


def trial_table(summaries: Sequence[VariantSummary], space: Space) -> Table:
    """Return one row per variant with its metrics.

    Rates and qualities are means over the rates that were trained; ``rate_table`` has each. Rows
    are numbered where plots name the variants by number.
    """
    shown = _known_metrics(summaries, space)
    numbered = are_numbered(summaries, space)
    columns = (
        *([Column(key="number", header="#", format="d")] if numbered else []),
        Column(key="variant", header="variant"),
        *map(column_of, shown),
        Column(key="steps", header="steps", group="training", format=",d"),
        Column(key="seeds", header="seeds", group="training", format="d"),
    )
    rows = []
    for number, summary in enumerate(summaries, 1):
        values: dict[str, Value] = {"number": number} if numbered else {}
        values |= {"variant": summary.label, **_cells(summary, shown)}
        values |= {"steps": summary.records[0].steps, "seeds": len(summary.records)}
        rows.append(Row(values=values, marks=marks(summary, summaries[0], space)))
    return Table(
        title=space.title or f"Study {space.name}",
        columns=columns,
        rows=tuple(rows),
        footer=footer(summaries, space),
    )


def _known_metrics(summaries: Sequence[VariantSummary], space: Space) -> list[str]:
    """Return the metrics that have a column: none that compares the baseline with itself alone."""
    judged = {*space.objectives, *space.constraints, *space.soft_constraints, *_COLUMNS}
    known = {name for s in summaries if not s.is_baseline for name in s.metrics}
    known |= {name for name in summaries[0].metrics if not METRICS[name].relative}
    return [name for name in METRICS if name in judged & known]


def _cells(summary: VariantSummary, names: Sequence[str]) -> dict[str, Value]:
    """Return metrics with their intervals, where they have one."""
    return {name: summary.intervals.get(name, summary.metrics.get(name)) for name in names}


def marks(summary: VariantSummary, baseline: VariantSummary, space: Space) -> tuple[Mark, ...]:
    """Return the marks of a variant's row."""
    established = is_established(summary, baseline, space)
    holds: dict[Mark, bool] = {
        "pareto": summary.on_front and established,
        "pareto-by-mean": summary.on_front and not established,
        "baseline": summary.is_baseline,
        "partial": not summary.is_complete,
        "infeasible": not summary.is_feasible,
    }
    return tuple(mark for mark, held in holds.items() if held)


def rate_table(summaries: Sequence[VariantSummary]) -> Table:
    """Return one row per variant, seed and rate."""
    records: list[RdRecord] = []
    for summary in summaries:
        for record in summary.records:
            seed = f", seed {record.seed}" if len(summary.records) > 1 else ""
            records.append(record.rd.model_copy(update={"name": f"{summary.label}{seed}"}))
    return rd_table(records, title="Rates and qualities")


def ablation_table(summaries: Sequence[VariantSummary], space: Space) -> Table:
    """Return the effect of each single change on parameters, MACs, decoding time and rate."""
    baseline = summaries[0]
    compared = [name for name in _known_metrics(summaries, space) if METRICS[name].relative]
    changed = [name for name in METRICS if name in {*_CHANGES, *space.objectives}]
    changed = [name for name in changed if name in baseline.metrics and name not in compared]
    columns = [Column(key="change", header="change")]
    for name in changed:
        metric = METRICS[name]
        column = column_of(
            name, key=f"{name}_change", group="", header=f"Δ {metric.label}",
            format=f"+{metric.format.removeprefix('+')}",
        )  # fmt: skip
        columns.append(column.model_copy(update={"best": None}))
    columns += [column_of(name, group="", header=f"Δ {METRICS[name].label}") for name in compared]
    rows = []
    for summary in summaries:
        values: dict[str, Value] = {"change": _change(summary, baseline, space)}
        for name in changed:
            if name in summary.metrics:
                values[f"{name}_change"] = summary.metrics[name] - baseline.metrics[name]
        values |= _cells(summary, compared)
        rows.append(Row(values=values, marks=marks(summary, baseline, space)))
    return Table(
        title=f"Ablation of {space.baseline.name}",
        columns=tuple(columns),
        rows=tuple(rows),
        footer=footer(summaries, space),
    )


def _change(summary: VariantSummary, baseline: VariantSummary, space: Space) -> str:
    if summary.is_baseline:
        return "none"
    changed = [
        f"{name} {show(baseline.params[name])} → {show(key)}"
        if name in baseline.params and space.axes[name].kind != "override"
        else space.axes[name].label(name, key)
        for name, key in summary.params.items()
        if name not in baseline.params or baseline.params[name] != key
    ]
    return ", ".join(changed)


def footer(summaries: Sequence[VariantSummary], space: Space) -> tuple[str, ...]:
    """Return the conditions under which a study's values were measured."""
    first = summaries[0].records[0]
    recipe, (height, width) = first.recipe, first.complexity.size
    lambdas = ", ".join(f"{value:.4g}" for value in first.lambdas)
    several = any(len(summary.records) > 1 for summary in summaries)
    changed = "".join(
        f", {name} {value}"
        for name, value in space.budget.changes.items()
        if name not in ("batch", "crop", "lambdas")  # in the line anyway
    )
    lines = [
        f"Base {space.baseline.name}. MACs of one forward pass at {height}x{width}, "
        "convention all, per pixel before padding.",
        f"Trained with recipe {recipe.name}{changed}: {recipe.steps:,} steps of {recipe.batch} "
        f"crop{'s' if recipe.batch > 1 else ''} of {recipe.crop}x{recipe.crop}, λ = {lambdas} "
        f"(λ·255²·MSE + bpp), one rate-conditioned training per {'seed' if several else 'row'}.",
        f"Rates are written bits, means over {len(first.rd.points[0].images)} images "
        f"(set {first.rd.data_fingerprint}).",
    ]
    if any(summary.intervals for summary in summaries):
        resampled = "the images and the seeds" if several else "the images; one seed each"
        lines.append(f"Intervals: 95 % of paired bootstrap resamples of {resampled}.")
    compared = [s for s in summaries if s.is_complete and not s.is_baseline]
    if any("bd_rate_percent" not in summary.metrics for summary in compared):
        known = "bd_rate_percent" in _known_metrics(summaries, space)
        lines.append(
            f"A BD-rate needs curves that rise and share {100 * MIN_OVERLAP:g} % of their range of "
            "PSNR with the baseline's: "
            + ("a dash marks those that do not." if known else "no variant here has one.")
        )
    records = [record for summary in summaries for record in summary.records]
    return (*lines, *environment_lines(record.rd.environment for record in records))

"""The tables of a study, from its summaries alone."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Literal

from tcm_lab.evaluation import MIN_OVERLAP, RdRecord
from tcm_lab.reporting import Column, Mark, Row, Table, Value, rd_table
from tcm_lab.study.axes import show
from tcm_lab.study.space import Space
from tcm_lab.study.summary import VariantSummary

_BEST: Literal["low"] = "low"

_COMPARED = "against the baseline"
_WHOLE = ("parameters", "peak_memory_bytes")
_LONGEST_NAME = 24  # letters: longer ones hide the points of a plot

FIGURES: dict[str, Column] = {
    "parameters": Column(
        key="parameters", header="parameters", unit="M", format=".3f", scale=1e-6,
        best=_BEST,
    ),
    "kmacs_per_px": Column(
        key="kmacs_per_px", header="whole", group="MACs", unit="kMAC/px", format=".2f", best=_BEST
    ),
    "encode_kmacs_per_px": Column(
        key="encode_kmacs_per_px", header="encode", group="MACs", unit="kMAC/px", format=".2f",
        best=_BEST,
    ),
    "decode_kmacs_per_px": Column(
        key="decode_kmacs_per_px", header="decode", group="MACs", unit="kMAC/px", format=".2f",
        best=_BEST,
    ),
    "peak_memory_bytes": Column(
        key="peak_memory_bytes", header="peak memory", unit="MB", format=".0f",
        scale=1e-6, best=_BEST,
    ),
    "encode_ms": Column(
        key="encode_ms", header="encode", group="time", unit="ms", format=".0f", best=_BEST
    ),
    "decode_ms": Column(
        key="decode_ms", header="decode", group="time", unit="ms", format=".0f", best=_BEST
    ),
    "lagrangian_percent": Column(
        key="lagrangian_percent", header="Lagrangian cost", group=_COMPARED, unit="%",
        format="+.2f", best=_BEST,
    ),
    "bd_rate_percent": Column(
        key="bd_rate_percent", header="BD-rate", group=_COMPARED, unit="%",
        format="+.2f", best=_BEST,
    ),
}  # fmt: skip
"""A column for each figure that a study knows."""


def plot_names(summaries: Sequence[VariantSummary], space: Space) -> list[str]:
    """Return what plots call the variants: their labels, or where those are long their rows.

    Those of an ablation go by what they change.
    """
    if are_numbered(summaries, space):
        return [f"#{number}" for number in range(1, len(summaries) + 1)]
    if space.mode == "ablation":
        baseline = summaries[0]
        return [space.base, *(_change(summary, baseline, space) for summary in summaries[1:])]
    return [summary.label for summary in summaries]


def are_numbered(summaries: Sequence[VariantSummary], space: Space) -> bool:
    """Say whether variants have too long labels to be called by them beside a point."""
    return space.mode != "ablation" and any(len(s.label) > _LONGEST_NAME for s in summaries)


def trial_table(summaries: Sequence[VariantSummary], space: Space) -> Table:
    """Return one row per variant: what it costs, what it codes, and how it compares.

    Rows are numbered where plots call the variants by number.

    Rate and PSNR are means over the rates that were trained; ``rate_table`` has each.
    """
    shown = _known_figures(summaries)
    numbered = are_numbered(summaries, space)
    columns = (
        *([Column(key="number", header="#", format="d")] if numbered else []),
        Column(key="variant", header="variant"),
        *(FIGURES[name] for name in shown if FIGURES[name].group in ("", "MACs")),
        Column(key="bpp", header="rate", group="mean over the rates", unit="bpp", format=".4f"),
        Column(key="psnr_db", header="PSNR", group="mean over the rates", unit="dB", format=".2f"),
        *(FIGURES[name] for name in shown if FIGURES[name].group == _COMPARED),
        *(FIGURES[name] for name in shown if FIGURES[name].group == "time"),
        Column(key="steps", header="steps", group="training", format=",d"),
        Column(key="seeds", header="seeds", group="training", format="d"),
    )
    title = space.title or f"Study {space.name}"
    rows = tuple(
        _row(summary, shown, number if numbered else None)
        for number, summary in enumerate(summaries, 1)
    )
    return Table(title=title, columns=columns, rows=rows, footer=footer(summaries, space))


def _known_figures(summaries: Sequence[VariantSummary]) -> list[str]:
    """Return the figures that have a column: no comparison that only the baseline knows."""
    known = {name for s in summaries if not s.is_baseline for name in s.figures}
    known |= {name for s in summaries for name in s.figures if FIGURES[name].group != _COMPARED}
    return [name for name in FIGURES if name in known]


def _row(summary: VariantSummary, shown: Sequence[str], number: int | None = None) -> Row:
    values: dict[str, Value] = {
        name: int(value) if name in _WHOLE else value
        for name, value in summary.figures.items()
        if name in shown
    }
    if number is not None:
        values["number"] = number
    values |= summary.intervals
    for name in ("bpp", "psnr_db"):
        values[name] = fmean(fmean(getattr(record.rd, name)) for record in summary.records)
    values["variant"] = summary.label
    values["steps"] = summary.records[0].steps
    values["seeds"] = len(summary.records)
    return Row(values=values, marks=marks(summary))


def marks(summary: VariantSummary) -> tuple[Mark, ...]:
    """Return what is to be said of a variant in one sign each."""
    said: dict[Mark, bool] = {
        "pareto": summary.on_front,
        "baseline": summary.is_baseline,
        "partial": not summary.is_complete,
        "infeasible": not summary.is_feasible,
    }
    return tuple(mark for mark, holds in said.items() if holds)


def rate_table(summaries: Sequence[VariantSummary]) -> Table:
    """Return one row per variant, seed and rate."""
    records: list[RdRecord] = []
    for summary in summaries:
        for record in summary.records:
            seed = f", seed {record.seed}" if len(summary.records) > 1 else ""
            name = f"{summary.label}{seed}"
            records.append(record.rd.model_copy(update={"name": name}))
    return rd_table(records, title="Rates and qualities")


def ablation_table(summaries: Sequence[VariantSummary], space: Space) -> Table:
    """Return what each single change does to parameters, MACs, decoding time and rate."""
    baseline, shown = summaries[0].figures, _known_figures(summaries)
    compared = {"lagrangian_percent": "Δ Lagrangian", "bd_rate_percent": "ΔBD-rate"}
    columns = (
        Column(key="change", header="change"),
        Column(key="parameters_change", header="Δ parameters", unit="M", format="+.3f", scale=1e-6),
        Column(key="kmacs_per_px_change", header="Δ MACs", unit="kMAC/px", format="+.2f"),
        Column(key="decode_ms_change", header="Δ decode", unit="ms", format="+.0f"),
        *(
            FIGURES[name].model_copy(update={"group": "", "header": header})
            for name, header in compared.items()
            if name in shown
        ),
    )
    rows = []
    for summary in summaries:
        values = {
            name: value for name, value in _row(summary, shown).values.items() if name in compared
        }
        for name in ("parameters", "kmacs_per_px", "decode_ms"):
            if name in summary.figures:
                change = summary.figures[name] - baseline[name]
                values[f"{name}_change"] = int(change) if name in _WHOLE else change
        values["change"] = _change(summary, summaries[0], space)
        rows.append(Row(values=values, marks=marks(summary)))
    return Table(
        title=f"Ablation of {space.base}",
        columns=columns,
        rows=tuple(rows),
        footer=footer(summaries, space),
    )


def _change(summary: VariantSummary, baseline: VariantSummary, space: Space) -> str:
    if summary.is_baseline:
        return "none"
    changed = [
        f"{name} {show(baseline.params[name])} → {show(key)}"
        if name in baseline.params and space.axes[name].kind != "override"
        else space.axes[name].says(name, key)
        for name, key in summary.params.items()
        if name not in baseline.params or baseline.params[name] != key
    ]
    return ", ".join(changed)


def footer(summaries: Sequence[VariantSummary], space: Space) -> tuple[str, ...]:
    """Return the conditions under which a study's figures hold."""
    first = summaries[0].records[0]
    recipe, counted, rd = first.recipe, first.complexity, first.rd
    height, width = counted.size
    lambdas = ", ".join(f"{value:.4g}" for value in first.lambdas)
    images = len(rd.points[0].images)
    several = any(len(summary.records) > 1 for summary in summaries)
    changed = "".join(
        f", {name} {value}"
        for name, value in space.budget.changes.items()
        if name not in ("batch", "crop", "lambdas")  # which the line tells anyway
    )
    lines = [
        f"Base {space.base}. MACs of one forward pass at {height}x{width}, convention all, over "
        "the pixels before padding.",
        f"Trained by recipe {recipe.name}{changed}: {recipe.steps:,} steps of {recipe.batch} crops "
        f"of {recipe.crop}x{recipe.crop}, λ = {lambdas} (λ·255²·MSE + bpp), one rate-conditioned "
        f"training per {'seed' if several else 'row'}.",
        f"Rates are written bits, means over {images} images (set {rd.data_fingerprint}).",
    ]
    if any(summary.intervals for summary in summaries):
        lines.append(
            "Intervals: 95 % of paired bootstrap resamples over the images"
            + (" and the seeds." if several else ".")
        )
    compared = [s for s in summaries if s.is_complete and not s.is_baseline]
    if any("bd_rate_percent" not in summary.figures for summary in compared):
        known = "bd_rate_percent" in _known_figures(summaries)
        lines.append(
            f"A BD-rate needs curves that rise and share {100 * MIN_OVERLAP:g} % of their range of "
            "PSNR with the baseline's: "
            + ("a dash marks those that do not." if known else "none here does.")
        )
    names = {
        f"{e.device}, {e.threads} thread{'s' if e.threads > 1 else ''}; "
        + ", ".join(f"{name} {version}" for name, version in sorted(e.versions.items()))
        for e in (record.rd.environment for summary in summaries for record in summary.records)
    }
    return (*lines, *(f"{line}." for line in sorted(names)))

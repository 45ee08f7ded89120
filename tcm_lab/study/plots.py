"""Plots of a study, and the interactive charts that replace some of them on a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tcm_lab import reporting
from tcm_lab.evaluation import RdRecord
from tcm_lab.metrics import ESTIMATED, METRICS
from tcm_lab.reporting import ParetoPoint, PlotAxis, RdSeries
from tcm_lab.stats import IncompleteInterval
from tcm_lab.study.finalists import Finalists, predicted_plot, trained_of
from tcm_lab.study.space import Space
from tcm_lab.study.summary import VariantSummary
from tcm_lab.study.tables import label_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tcm_lab.reporting.renderers.html import Spec

_MAX_CURVES = 8


def study_plots(
    summaries: Sequence[VariantSummary],
    space: Space,
    anchor: RdRecord | None = None,
    finalists: Finalists | None = None,
) -> dict[str, Figure]:
    """Return a study's plots by file name, those without data left out."""
    costs, plots = _costs(space), {}
    for stem, cost in costs.items():
        points, (x, y) = _pareto_points(summaries, cost, space)
        if points:
            plots[stem] = reporting.pareto_plot([*points.values()], x, y)
    if finalists is not None:
        plots["predicted"] = predicted_plot(finalists, space.estimator.type)
    if series := _rd_series(trained_of(finalists, summaries), anchor):
        plots["rd"] = reporting.rd_plot([*series.values()])
    if space.mode == "ablation" and (changes := _changes(summaries, costs["pareto"], space)):
        axes = [_plot_axis(name, space, "Δ ") for name in (_compared(space), costs["pareto"])]
        plots["ablation"] = reporting.ablation_plot(changes, *axes)
    return plots


def study_charts(
    summaries: Sequence[VariantSummary],
    space: Space,
    anchor: RdRecord | None = None,
    finalists: Finalists | None = None,
) -> dict[str, Spec]:
    """Return interactive charts that replace some of the plots, by the same names."""
    charts = {}
    for stem, cost in _costs(space).items():
        points, axes = _pareto_points(summaries, cost, space)
        details = [space.cells(s.first.params) for s in summaries if s.name in points]
        if points:
            charts[stem] = reporting.pareto_chart(
                [*points.values()], *axes, names=[*points], details=details
            )
    if series := _rd_series(trained_of(finalists, summaries), anchor):
        charts["rd"] = reporting.rd_chart([*series.values()], names=[*series])
    return charts


def _costs(space: Space) -> dict[str, str]:
    """Return the costs that quality is plotted against, by file name."""
    first, *more = [n for n in space.objectives if n != space.quality.name] or ["kmacs_per_px"]
    return {"pareto": first, **{f"pareto-{name}": name for name in more}}


def _plot_axis(name: str, space: Space, prefix: str = "") -> PlotAxis:
    metric = METRICS[name]
    return PlotAxis(
        name=f"{prefix}{label_of(name, space)}{' vs baseline' if metric.relative else ''}",
        unit=metric.unit,
        lower_is_better=metric.direction == "minimize",
    )


def _shown(summary: VariantSummary, name: str) -> float:
    """Return a metric in the unit of plots."""
    return summary.metrics[name] * METRICS[name].scale


def _ends(summary: VariantSummary, name: str) -> tuple[float, float] | None:
    interval, scale = summary.intervals.get(name), METRICS[name].scale
    return None if interval is None else (interval.low * scale, interval.high * scale)


def _pareto_points(
    summaries: Sequence[VariantSummary], cost: str, space: Space
) -> tuple[dict[str, ParetoPoint], tuple[PlotAxis, PlotAxis]]:
    """Return a point for each variant that has both metrics, by variant name, and the two axes."""
    quality = space.quality.name
    points = {
        summary.name: ParetoPoint(
            x=_shown(summary, cost),
            y=_shown(summary, quality),
            label=summary.name if summary.first.params else "",  # a baseline without axes
            x_interval=_ends(summary, cost),
            y_interval=_ends(summary, quality),
            front=summary.on_front,
            baseline=summary.is_baseline,
            partial=not summary.is_complete,
            infeasible=not summary.first.feasible,
        )
        for summary in summaries
        if {cost, quality} <= summary.metrics.keys()
    }
    return points, (_plot_axis(cost, space), _plot_axis(quality, space))


def _compared(space: Space) -> str:
    """Return the metric by which single changes are compared with the baseline."""
    return space.quality.name if space.quality.relative else ESTIMATED


def _changes(
    summaries: Sequence[VariantSummary], cost: str, space: Space
) -> list[reporting.Change]:
    """Return each change's effect on quality and on the first cost among the objectives."""
    quality = _compared(space)
    return [
        reporting.Change(
            label=summary.name,
            quality=_shown(summary, quality),
            interval=interval,
            is_complete=not isinstance(summary.intervals[quality], IncompleteInterval),
            cost=_shown(summary, cost) - _shown(summaries[0], cost),
        )
        for summary in summaries[1:]
        if (interval := _ends(summary, quality)) is not None and cost in summary.metrics
    ]


def _rd_series(summaries: Sequence[VariantSummary], anchor: RdRecord | None) -> dict[str, RdSeries]:
    """Return the curves of the baseline and the front, or of all variants if few, by name."""
    shown = [summary for summary in summaries if summary.is_complete and summary.evaluations]
    if len(shown) > _MAX_CURVES:
        shown = [s for s in shown if s.on_front or s.is_baseline][:_MAX_CURVES]
    series = {
        summary.name: reporting.series_of_records(
            summary.evaluations,
            label=f"{summary.name} (baseline)" if summary.is_baseline else summary.name,
            role="baseline" if summary.is_baseline else "measured",
        )
        for summary in shown
    }
    if anchor is not None and series:
        series["JPEG"] = reporting.series_of_records([anchor], label="JPEG", role="anchor")
    return series

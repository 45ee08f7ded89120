"""Plots of what codecs cost: by part, against parameters, against the image's size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tcm_lab.reporting._notes import need
from tcm_lab.reporting.plots._labels import label_points
from tcm_lab.reporting.plots._style import (
    COLUMN_INCHES,
    INK,
    PlotAxis,
    label_axes,
    markers,
    new_figure,
    palette,
    stacked_bars,
    style,
)
from tcm_lab.reporting.tables import part_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tcm_lab.complexity import ComplexityRecord, Convention

KMACS_PER_PX = PlotAxis(name="cost", unit="kMAC/px")
PARAMETERS = PlotAxis(name="parameters", unit="M")


def cost_by_part_plot(
    records: Sequence[ComplexityRecord],
    *,
    convention: Convention = "all",
    title: str = "",
    width: float = COLUMN_INCHES,
) -> Figure:
    """Draw each model's cost as one bar, stacked by part; the total stands at its end.

    Raises:
        LabError: no records given.
    """
    need("records", records)
    costs = [record.macs_by_part(convention) for record in records]
    parts = {
        name: [
            cost.get(part, 0) / record.pixels / 1e3
            for cost, record in zip(costs, records, strict=True)
        ]
        for part, name in part_names(records).items()
        if any(cost.get(part) for cost in costs)
    }
    models = [record.model for record in records]
    with style():
        return stacked_bars(parts, models, KMACS_PER_PX, form=".1f", title=title, width=width)


def macs_parameters_plot(
    records: Sequence[ComplexityRecord], *, convention: Convention = "all", title: str = ""
) -> Figure:
    """Draw each model's cost over its parameters.

    Raises:
        LabError: no records given.
    """
    need("records", records)
    with style():
        figure, axes = new_figure(title)
        points = [
            (record.total_parameters / 1e6, record.total_kmacs_per_px("whole", convention))
            for record in records
        ]
        x, y = zip(*points, strict=True)
        label_axes(axes, _log_if_wide(PARAMETERS, x), _log_if_wide(KMACS_PER_PX, y))
        axes.scatter(x, y, s=20, color=palette(1)[0], zorder=3)
        axes.margins(0.15)
        label_points(axes, points, [r.model for r in records], color=INK)
        return figure


def cost_size_plot(
    records: Sequence[ComplexityRecord], *, convention: Convention = "all", title: str = ""
) -> Figure:
    """Draw the cost per pixel over the image's size, which shows what padding adds.

    Args:
        records: of one or several models, each at several sizes.
        convention: which kinds of operators count.
        title: over the plot.

    Raises:
        LabError: no records given.
    """
    need("records", records)
    with style():
        figure, axes = new_figure(title)
        models = list(dict.fromkeys(record.model for record in records))
        sizes = {record.pixels: record.size for record in records}
        costs = [record.total_kmacs_per_px("whole", convention) for record in records]
        label_axes(
            axes,
            PlotAxis(name="image", unit="height x width", log=True),
            _log_if_wide(KMACS_PER_PX, costs),
        )
        for model, color, marker in zip(
            models, palette(len(models)), markers(len(models)), strict=True
        ):
            own = sorted((r for r in records if r.model == model), key=lambda r: r.pixels)
            costs = [record.total_kmacs_per_px("whole", convention) for record in own]
            axes.plot([r.pixels for r in own], costs, color=color, marker=marker, label=model)
        _size_ticks(axes, sizes)
        if len(models) > 1:
            figure.legend(loc="outside lower center", ncols=min(3, len(models)))
        return figure


def _log_if_wide(axis: PlotAxis, values: Sequence[float]) -> PlotAxis:
    """Return ``axis``, logarithmic if the values span more than a decade."""
    wide = min(values) > 0 and max(values) > 10 * min(values)
    return axis.model_copy(update={"log": wide})


def _size_ticks(axes: Axes, sizes: Mapping[int, tuple[int, int]]) -> None:
    from matplotlib.ticker import NullLocator

    shown: dict[int, tuple[int, int]] = {}
    for pixels in sorted(sizes):
        if not shown or pixels > 1.5 * max(shown):  # closer ones would touch
            shown[pixels] = sizes[pixels]
    axis = axes.xaxis
    axis.set_ticks(
        list(shown),
        [f"{h}x{w}" for h, w in shown.values()],
        rotation=40,
        ha="right",
        rotation_mode="anchor",
    )
    axis.set_minor_locator(NullLocator())

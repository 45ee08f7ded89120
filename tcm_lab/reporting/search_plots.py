"""Plots of a search: how the front grew, which axes matter, and what each of them does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tcm_lab._foundation import LabError
from tcm_lab.reporting.effects import Effect, Interaction
from tcm_lab.reporting.plots import (
    COLUMN_INCHES,
    INK,
    SOFT,
    Axis,
    label_axes,
    new_figure,
    palette,
    style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANEL_INCHES = 1.75
_TICK_CHARACTERS = 9


def hypervolume_plot(
    curves: Mapping[str, Sequence[float]], *, best: float | None = None, title: str = ""
) -> Figure:
    """Draw the hypervolume that the front dominates after each trial.

    Args:
        curves: by label, one value per trial.
        best: the whole space's, where it is known.
        title: over the plot.

    Raises:
        LabError: there is no curve.
    """
    _need(curves, "hypervolumes")
    from matplotlib.ticker import MaxNLocator

    with style():
        figure, axes = new_figure(title, height=2.4)
        label_axes(axes, Axis(name="trials"), Axis(name="hypervolume"))
        for (label, values), color in zip(curves.items(), palette(len(curves)), strict=True):
            trials = range(1, len(values) + 1)
            axes.step(trials, values, where="post", color=color, label=label)
        if best is not None:
            axes.axhline(best, color=SOFT, lw=0.8, ls="--", label="whole space")
        axes.set_xlim(left=1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(curves) > 1 or best is not None:
            axes.legend(loc="lower right")
        return figure


def importance_plot(importances: Mapping[str, Mapping[str, float]], *, title: str = "") -> Figure:
    """Draw the share of each objective's variation that each axis explains.

    Args:
        importances: by objective, then by axis.
        title: over the plot.

    Raises:
        LabError: there is none.
    """
    _need(importances, "importances")
    axes_named = sorted(
        {axis for shares in importances.values() for axis in shares},
        key=lambda axis: -max(shares.get(axis, 0.0) for shares in importances.values()),
    )
    _need(axes_named, "importances")
    with style():
        thickness = 0.8 / len(importances)
        height = 0.9 + len(axes_named) * (0.12 + 0.13 * len(importances))
        figure, axes = new_figure(title, height=height)
        colors = palette(len(importances))
        for i, (objective, shares) in enumerate(importances.items()):
            rows = [
                row + (i - (len(importances) - 1) / 2) * thickness for row in range(len(axes_named))
            ]
            values = [shares.get(axis, 0.0) for axis in axes_named]
            axes.barh(rows, values, thickness, color=colors[i], label=objective)
        axes.set_yticks(range(len(axes_named)), axes_named)
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        axes.invert_yaxis()
        axes.set_xlabel("importance (share of variation)")
        axes.set_xlim(left=0)
        if len(importances) > 1:
            figure.legend(loc="outside lower center", ncols=2)
        return figure


def main_effect_plot(effects: Sequence[Effect], y: Axis, *, title: str = "") -> Figure:
    """Draw one panel per axis: mean and quartiles of a figure at each of its values.

    All panels share the vertical axis, so that their heights compare.

    Raises:
        LabError: there is no effect.
    """
    _need(effects, "effects")
    with style():
        columns = min(len(effects), {4: 2, 5: 3, 6: 3}.get(len(effects), 4))
        rows = math.ceil(len(effects) / columns)
        width = max(COLUMN_INCHES, _PANEL_INCHES * columns)
        figure, first = new_figure(width=width, height=0.4 + 1.75 * rows)
        first.remove()
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
        color = palette(1)[0]
        for effect, axes in zip(effects, panels, strict=False):
            places = range(len(effect.levels))
            means = [level.mean for level in effect.levels]
            below = [level.mean - level.low for level in effect.levels]
            above = [level.high - level.mean for level in effect.levels]
            bars = [[max(0.0, end) for end in ends] for ends in (below, above)]
            # Between words there is nothing that a line could mean.
            line = "-" if effect.is_ordered else "none"
            axes.errorbar(
                places, means, bars, color=color, marker="o", ls=line, elinewidth=0.8, capsize=2
            )
            names = [level.name for level in effect.levels]
            long = max(map(len, names)) * len(names) > 3 * _TICK_CHARACTERS
            axes.set_xticks(places, names, **_turned(long))
            axes.set_title(effect.axis, fontsize=7.5)
            axes.margins(x=0.15)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        for spare in list(panels):
            spare.remove()
        figure.supylabel(y.label, fontsize=8)
        if title:
            figure.suptitle(title, fontsize=8.5, fontweight="bold", x=0.02, ha="left")
        return figure


def interaction_plot(table: Interaction, figure_axis: Axis, *, title: str = "") -> Figure:
    """Draw the means at each pair of values of two axes as a map with its figures in it.

    Raises:
        LabError: no trial has both axes.
    """
    _need(table.means, "interaction")
    import numpy as np
    import seaborn

    means = np.array([[np.nan if m is None else m for m in row] for row in table.means])
    with style():
        height = 1.1 + 0.28 * len(table.rows)
        figure, axes = new_figure(title, height=max(2.0, height))
        colors = seaborn.color_palette("crest", as_cmap=True)
        image = axes.imshow(means, cmap=colors, aspect="auto")
        axes.grid(False)
        axes.set_yticks(range(len(table.rows)), table.rows)
        long = max(map(len, table.columns)) * len(table.columns) > 4 * _TICK_CHARACTERS
        axes.set_xticks(range(len(table.columns)), table.columns, **_turned(long))
        axes.set_ylabel(table.axes[0])
        axes.set_xlabel(table.axes[1])
        middle = (np.nanmin(means) + np.nanmax(means)) / 2
        for (row, column), mean in np.ndenumerate(means):
            if not np.isnan(mean):
                # The map is dark where the figure is high.
                ink = "white" if mean > middle else INK
                axes.text(
                    column, row, f"{mean:.2f}", ha="center", va="center", color=ink, fontsize=6.5
                )
        bar = figure.colorbar(image, ax=axes)
        bar.set_label(figure_axis.label)
        bar.outline.set_visible(False)
        return figure


def _turned(long: bool) -> dict[str, Any]:
    return {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if long else {}


def _need(items: object, name: str) -> None:
    if not items:
        raise LabError(f"{name}: there is none to draw.")

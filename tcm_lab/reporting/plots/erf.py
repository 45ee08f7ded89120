"""Effective receptive fields: the maps, and how much squares around the centre hold."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tcm_lab.analysis import ErfMap, ErfMeasures
from tcm_lab.reporting._notes import need
from tcm_lab.reporting.plots._style import (
    PlotAxis,
    colour_bar,
    draw_map,
    label_axes,
    legend_below,
    new_figure,
    palette,
    panels,
    style,
)

_FLOOR = 1e-5
_DRAWN = {0.5: "-", 0.95: "--"}
"""Shares whose squares are drawn, and their lines."""


def erf_plot(
    maps: Mapping[str, ErfMap],
    *,
    squares: Mapping[str, ErfMeasures] = MappingProxyType({}),
    title: str = "",
    columns: int = 3,
) -> Figure:
    """Draw maps beside each other, each position's share over its map's largest.

    For display alone, the shares are logarithmic and clipped at 1e-5 of the largest; measures are
    taken on the shares themselves.

    Args:
        maps: by the label of their panel; all of one pitch.
        squares: by the same labels, measures whose 50 and 95 % squares are drawn; none by default.
        title: over the figure.
        columns: panels beside each other.

    Raises:
        LabError: no maps are given.
    """
    need("maps", maps)
    inches = 2.5 if len(maps) > 1 else 2.9
    with style():
        figure, grid = panels(len(maps), columns=columns, height=inches, title=title)
        for axes, (label, erf) in zip(grid, maps.items(), strict=True):
            relative = np.clip(erf.scores / erf.scores.max(), _FLOOR, 1)
            (height, width), (row, column) = erf.scores.shape, erf.centre
            edges = np.array([-column, width - column, height - row, -row]) - 0.5
            extent = tuple(edges * erf.pitch_px)
            drawn = draw_map(axes, relative, norm=LogNorm(_FLOOR, 1), extent=extent)
            axes.set_title(label, fontsize=7.5)
            axes.set_xlabel("columns from the centre (px)", fontsize=7)
            for share, dashes in _DRAWN.items() if squares else ():
                side = squares[label].side_px[share].value
                look: dict[str, Any] = {"fill": False, "ec": "white", "lw": 0.8, "ls": dashes}
                axes.add_patch(Rectangle((-side / 2, -side / 2), side, side, **look))
        grid[0].set_ylabel("rows from the centre (px)", fontsize=7)
        colour_bar(figure, drawn, grid, "share over the largest\n(log scale, clipped below 1e-5)")
        return figure


def erf_profile_plot(maps: Mapping[str, Sequence[ErfMap]], *, title: str = "") -> Figure:
    """Draw how much of the contribution lies outside of a centred square, over its side.

    Args:
        maps: one list of images' maps per curve; a band spans the images' quartiles.
        title: over the plot.

    Raises:
        LabError: no maps are given.
    """
    need("maps", maps)
    with style():
        figure, axes = new_figure(title)
        label_axes(
            axes,
            PlotAxis(name="side of a centred square", unit="px", log=True),
            PlotAxis(name="contribution from outside", log=True),
        )
        dashes = itertools.cycle(("-", "--", ":", "-."))
        for (label, erfs), color in zip(maps.items(), palette(len(maps)), strict=True):
            profiles = np.stack([1 - erf.profile() for erf in erfs])
            sides = (np.arange(profiles.shape[1]) + 1) * erfs[0].pitch_px
            # The last squares hold everything, which a logarithm cannot show.
            shown = profiles.mean(0) > 1e-6
            axes.plot(
                sides[shown], profiles.mean(0)[shown], label=label, color=color, ls=next(dashes)
            )
            low, high = np.quantile(profiles, [0.25, 0.75], axis=0).clip(1e-6)[:, shown]
            axes.fill_between(sides[shown], low, high, color=color, alpha=0.18, lw=0)
        axes.set_ylim(1e-5, 1.3)
        powers = range(6)
        axes.set_yticks([10.0**-k for k in powers], [f"{100 * 10**-k:g} %" for k in powers])
        axes.set_xlim(left=2 * min(erfs[0].pitch_px for erfs in maps.values()))
        legend_below(figure, min(3, len(maps)))
        return figure

"""Plots of effective receptive fields.

Functions take several fields as a mapping by label, and refuse an empty one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from tcm_lab.analysis import ErfMap, ErfMeasures
from tcm_lab.reporting._notes import need
from tcm_lab.reporting.plots._style import (
    INK,
    PAGE_INCHES,
    PlotAxis,
    colour_bar,
    draw_map,
    legend_below,
    name_axes,
    new_figure,
    palette,
    panels,
    style,
)

_FLOOR = 1e-5
_CUT_OFF = 1e-4  # share of a field that may lie outside its panel
_SQUARES = {0.5: "-", 0.95: "--"}
"""Shares whose squares are drawn, and their line styles."""


@style()
def erf_plot(
    maps: Mapping[str, ErfMap], *, squares: Mapping[str, ErfMeasures] = MappingProxyType({})
) -> Figure:
    """Draw maps side by side, with each position's share relative to the largest of its map.

    Only for display, the shares are logarithmic and clipped at 1e-5 of the largest; measures use
    the shares themselves. The panels show the square that holds all but 1e-4 of each map.

    Args:
        maps: maps of the same pitch, by the label of their panel.
        squares: measures by the same labels, whose 50 and 95 % squares are drawn if available;
            none by default.

    Raises:
        LabError: no maps are given.
    """
    need("maps", maps)
    columns = 2 if len(maps) == 4 else min(len(maps), 3)
    wide, height = (PAGE_INCHES * columns / 3, 2.5) if columns > 1 else (None, 2.9)
    figure, grid = panels(len(maps), columns=columns, height=height, width=wide)
    figure.set_layout_engine("compressed")  # the default clips labels of square axes
    reach = max(_reach_of_field(erf) for erf in maps.values())
    named: dict[str, Line2D] = {}  # the squares are white on the maps, and dark in the legend
    for axes, (label, erf) in zip(grid, maps.items(), strict=True):
        relative = np.clip(erf.scores / erf.scores.max(), _FLOOR, 1)
        (height, width), (row, column) = erf.shape, erf.centre
        edges = np.array([-column, width - column, height - row, -row]) - 0.5
        extent = tuple(edges * erf.pitch_px)
        drawn = draw_map(axes, relative, norm=LogNorm(_FLOOR, 1), extent=extent)
        left, right, bottom, top = np.clip(extent, -reach, reach)
        axes.set(xlim=(left, right), ylim=(bottom, top))
        name_axes(axes, label)
        axes.set_xlabel("columns from the centre (px)", fontsize=7)
        sides = squares[label].side_px if label in squares else {}
        for share in [share for share in _SQUARES if share in sides]:
            side, dashes = sides[share].value, _SQUARES[share]
            look: dict[str, Any] = {"fill": False, "ec": "white", "lw": 0.8, "ls": dashes}
            axes.add_patch(Rectangle((-side / 2, -side / 2), side, side, **look))
            named[f"square that holds {100 * share:g} %"] = Line2D(
                [], [], color=INK, lw=0.8, ls=dashes
            )
    for axes in grid[::columns]:
        axes.set_ylabel("rows from the centre (px)", fontsize=7)
    colour_bar(figure, drawn, grid, "share over the largest\n(log scale, clipped below 1e-5)")
    if named:
        legend_below(figure, len(named), handles=named.values(), labels=named)
    return figure


def _reach_of_field(erf: ErfMap) -> float:
    """Return the distance from its centre up to which a field is drawn, in pixels."""
    side = int(np.searchsorted(erf.profile(), 1 - _CUT_OFF)) + 1
    return (side / 2 + 1) * erf.pitch_px


@style()
def erf_profile_plot(maps: Mapping[str, Sequence[ErfMap]]) -> Figure:
    """Draw the share of the contribution outside a centred square, over the square's side.

    Args:
        maps: the images' maps of each curve; a band spans the images' quartiles.

    Raises:
        LabError: no maps are given.
    """
    need("maps", maps)
    figure, axes = new_figure(
        PlotAxis(name="side of a centred square", unit="px", log=True),
        PlotAxis(name="contribution from outside", log=True),
    )
    dashes = itertools.cycle(("-", "--", ":", "-."))
    for (label, erfs), color in zip(maps.items(), palette(len(maps)), strict=True):
        profiles = np.stack([1 - erf.profile() for erf in erfs])
        mean = profiles.mean(0)
        shown = mean > 1e-6  # outside the last squares lies nothing, which a log axis cannot show
        sides = (np.arange(len(mean)) + 1)[shown] * erfs[0].pitch_px
        low, high = np.quantile(profiles, [0.25, 0.75], axis=0).clip(1e-6)[:, shown]
        axes.plot(sides, mean[shown], label=label, color=color, ls=next(dashes))
        axes.fill_between(sides, low, high, color=color, alpha=0.18, lw=0)
    axes.set_ylim(1e-5, 1.3)
    axes.set_yticks([10.0**-k for k in range(6)], [f"{100 * 10**-k:g} %" for k in range(6)])
    axes.set_xlim(left=2 * min(erfs[0].pitch_px for erfs in maps.values()))
    legend_below(figure, min(3, len(maps)))
    return figure

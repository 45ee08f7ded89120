"""Effective receptive fields: the maps, and how much squares around the centre hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tcm_lab.errors import LabError
from tcm_lab.reporting.plots._style import (
    PlotAxis,
    colour_bar,
    label_axes,
    new_figure,
    palette,
    panels,
    plain_ticks,
    style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tcm_lab.analysis import ErfMap, ErfMeasures

_FLOOR = 1e-5
_DRAWN = (0.5, 0.95)


def erf_plot(
    maps: Mapping[str, ErfMap],
    *,
    squares: Mapping[str, ErfMeasures] | None = None,
    title: str = "",
    columns: int = 3,
) -> Figure:
    """Draw maps beside each other, each position's share over its map's largest.

    For display alone, the shares are logarithmic and clipped at 1e-5 of the largest; measures are
    taken on the shares themselves.

    Args:
        maps: by the label of their panel; all of one pitch.
        squares: by the same labels, measures whose 50 and 95 % squares are drawn.
        title: over the figure.
        columns: panels beside each other.

    Raises:
        LabError: no maps are given.
    """
    if not maps:
        raise LabError("no maps given")
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    with style():
        several = len(maps) > 1
        figure, grid = panels(len(maps), columns=columns, height=2.5 if several else 2.9)
        norm = LogNorm(_FLOOR, 1)
        image = None
        for axes, (label, erf) in zip(grid, maps.items(), strict=True):
            relative = np.clip(erf.scores / erf.scores.max(), _FLOOR, 1)
            pitch = erf.pitch_px
            (top, left), (height, width) = erf.centre, erf.scores.shape
            extent = (
                (-0.5 - left) * pitch,
                (width - 0.5 - left) * pitch,
                (height - 0.5 - top) * pitch,
                (-0.5 - top) * pitch,
            )
            image = axes.imshow(
                relative, cmap="cividis", norm=norm, extent=extent, interpolation="none"
            )
            axes.grid(False)
            axes.set_title(label, fontsize=7.5)
            axes.set_xlabel("columns from the centre (px)", fontsize=7)
            if axes is grid[0] or not several:
                axes.set_ylabel("rows from the centre (px)", fontsize=7)
            if squares is not None:
                for share, dashes in zip(_DRAWN, ("-", "--"), strict=True):
                    side = squares[label].side_px[share].value
                    axes.add_patch(
                        Rectangle(
                            (-side / 2, -side / 2),
                            side,
                            side,
                            fill=False,
                            ec="white",
                            lw=0.8,
                            ls=dashes,
                        )
                    )
        colour_bar(figure, image, grid, "share over the largest\n(log scale, clipped below 1e-5)")
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=8.5, fontweight="bold")
        return figure


def erf_profile_plot(maps: Mapping[str, Sequence[ErfMap]], *, title: str = "") -> Figure:
    """Draw how much of the contribution lies outside of a centred square, over its side.

    Args:
        maps: one list of images' maps per curve; a band spans the images' quartiles.
        title: over the plot.

    Raises:
        LabError: no maps are given.
    """
    if not maps:
        raise LabError("no maps given")
    with style():
        figure, axes = new_figure(title)
        label_axes(
            axes,
            PlotAxis(name="side of a centred square", unit="px", log=True),
            PlotAxis(name="contribution from outside", log=True),
        )
        lines = ("-", "--", ":", "-.")
        for i, (label, erfs) in enumerate(maps.items()):
            profiles = np.stack([1 - erf.profile() for erf in erfs])
            sides = (np.arange(profiles.shape[1]) + 1) * erfs[0].pitch_px
            middle = profiles.mean(0)
            color = palette(len(maps))[i]
            # The last squares hold everything, which a logarithm cannot show.
            shown = middle > 1e-6
            dashes = lines[i % len(lines)]
            axes.plot(sides[shown], middle[shown], label=label, color=color, ls=dashes)
            if len(erfs) > 1:
                low, high = np.quantile(profiles, [0.25, 0.75], axis=0)
                axes.fill_between(
                    sides[shown],
                    np.maximum(low[shown], 1e-6),
                    high[shown],
                    color=color,
                    alpha=0.18,
                    lw=0,
                )
        axes.set_ylim(1e-5, 1.3)
        percents = [f"{100 * 10**-k:g} %" for k in range(6)]
        axes.set_yticks([10.0**-k for k in range(6)], percents)
        plain_ticks(axes.xaxis)
        axes.set_xlim(left=2 * min(erfs[0].pitch_px for erfs in maps.values()))
        figure.legend(loc="outside lower center", ncols=min(3, len(maps)))
        return figure

"""A plot of single changes: what each does to quality, with its interval, and to cost."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tcm_lab._utils import Frozen
from tcm_lab.reporting.plots._style import INK, SOFT, PlotAxis, palette, panels, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_INCHES = 5.6
_ROW_INCHES = 0.2
_VERDICTS = ("better", "not distinguishable", "worse")


class Change(Frozen):
    """One change of the baseline.

    Attributes:
        label: what was changed.
        quality: change of a metric to be minimised.
        interval: its lower and upper end.
        cost: change of the cost.
    """

    label: str
    quality: float
    interval: tuple[float, float]
    cost: float

    @property
    def verdict(self) -> str:
        """Whether the interval lies on one side of zero, in a word."""
        low, high = self.interval
        return _VERDICTS[0] if high < 0 else _VERDICTS[2] if low > 0 else _VERDICTS[1]


def ablation_plot(changes: Sequence[Change], quality: PlotAxis, cost: PlotAxis) -> Figure:
    """Draw a row per change: its effect on quality with the interval, and beside it on cost.

    Args:
        changes: in the order of the rows.
        quality: what the left half shows.
        cost: what the right half shows.
    """
    better, worse = palette(4)[0], palette(4)[3]
    colors = dict(zip(_VERDICTS, (better, SOFT, worse), strict=True))
    height = 0.9 + _ROW_INCHES * len(changes)
    with style():
        figure, (left, right) = panels(
            2, columns=2, height=height, width=_WIDTH_INCHES, sharey=True, width_ratios=(2, 1)
        )
        for row, change in enumerate(changes):
            verdict = change.verdict
            if not quality.lower_is_better:
                verdict = {"better": "worse", "worse": "better"}.get(verdict, verdict)
            color = colors[verdict]
            left.plot(change.interval, (row, row), color=color, lw=1)
            left.plot(change.quality, row, "o", color=color, ms=4, label=verdict)
            right.barh(row, change.cost, height=0.6, color=SOFT)
        left.set_yticks(range(len(changes)), labels=[change.label for change in changes])
        left.invert_yaxis()
        for axes, shown, characters in ((left, quality, 40), (right, cost, 18)):
            axes.axvline(0, color=INK, lw=0.6, zorder=1)
            axes.set_xlabel(textwrap.fill(shown.label, characters))
            axes.grid(visible=False, axis="y")
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
        _legend(left, figure)
        return figure


def _legend(axes: Axes, figure: Figure) -> None:
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    words = [word for word in _VERDICTS if word in handles]
    figure.legend(
        [handles[word] for word in words], words, loc="outside lower center", ncols=3,
        handletextpad=0.2, columnspacing=1.0,
    )  # fmt: skip

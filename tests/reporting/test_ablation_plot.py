"""The plot of single changes: intervals, verdicts and costs as they were given."""

from __future__ import annotations

import pytest
from matplotlib.colors import to_hex

from tcm_lab.reporting import Change, PlotAxis, ablation_plot
from tcm_lab.reporting.plots import SOFT, palette

CHANGES = [
    Change(label="no split", quality=-4.0, interval=(-6.0, -1.0), cost=2.0),
    Change(label="no SWAtten", quality=1.0, interval=(-1.0, 3.0), cost=-0.5),
    Change(label="one slice", quality=5.0, interval=(2.0, 9.0), cost=-3.0),
]


def test_each_change_has_its_interval_its_verdict_and_its_cost() -> None:
    figure = ablation_plot(
        CHANGES, PlotAxis(name="cost", unit="%"), PlotAxis(name="MACs", unit="kMAC/px")
    )
    left, right = figure.axes
    spans = [line for line in left.lines if len(line.get_xdata()) == 2]
    drawn = {tuple(line.get_xdata()): to_hex(line.get_color()) for line in spans}
    better, worse = palette(4)[0], palette(4)[3]
    assert drawn[-6.0, -1.0] == better
    assert drawn[-1.0, 3.0] == SOFT
    assert drawn[2.0, 9.0] == worse
    assert [bar.get_width() for bar in right.patches] == [2.0, -0.5, -3.0]
    assert [text.get_text() for text in left.get_yticklabels()] == [c.label for c in CHANGES]
    (legend,) = figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["better", "not distinguishable", "worse"]


@pytest.mark.parametrize(
    "interval",
    [(0.0, 2.0), (-2.0, 0.0), (-10.73, 1.73), (-1e-9, 1e-9), (-0.1, 40.0), (0.0, 0.0)],
)
def test_an_interval_that_touches_zero_tells_nothing(interval: tuple[float, float]) -> None:
    change = Change(label="a", quality=sum(interval) / 2, interval=interval, cost=0.0)
    assert change.verdict == "not distinguishable"


def test_an_interval_that_leaves_something_out_tells_nothing() -> None:
    change = Change(label="a", quality=-3.0, interval=(-4.0, -2.0), cost=0.0, is_complete=False)
    assert change.verdict == "not distinguishable"


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((-2.0, -1e-9), "better"), ((1e-9, 2.0), "worse"), ((-4.0, -3.0), "better")],
)
def test_an_interval_that_leaves_zero_has_a_direction(
    interval: tuple[float, float], verdict: str
) -> None:
    change = Change(label="a", quality=sum(interval) / 2, interval=interval, cost=0.0)
    assert change.verdict == verdict

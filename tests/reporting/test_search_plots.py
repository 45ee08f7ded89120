"""Plots of a search: what they draw follows from what they are given."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest

from tcm_lab.errors import LabError
from tcm_lab.reporting import (
    PlotAxis,
    effects_plot,
    figure_svg,
    history_plot,
    interactions_plot,
    plots,
)

X = PlotAxis(name="cost")

EFFECTS = {
    "split": [("0", [4.0]), ("0.5", [1.0, 3.0]), ("1", [8.0])],
    "block": [("tcm", [1.0, 4.0]), ("swin", [3.0])],
}
PAIRS = [
    (
        "split",
        "window",
        ["0", "0.5", "1"],
        {"4": [("0.5", 3.0), ("1", 4.0)], "8": [("0", 1.0), ("0.5", 2.0)]},
    ),
]
HISTORY = [(1, 0.25), (2, 0.25), (3, 1.0)]


def test_every_variant_is_a_dot_and_the_line_goes_through_the_means() -> None:
    split, block = effects_plot(EFFECTS).axes
    *dots, line = split.lines
    assert [list(dot.get_ydata()) for dot in dots] == [[4.0], [1.0, 3.0], [8.0]]
    assert list(line.get_ydata()) == [4.0, 2.0, 8.0]
    assert [text.get_text() for text in block.get_xticklabels()] == ["tcm", "swin"]


def test_a_value_that_was_not_trained_with_another_leaves_a_gap() -> None:
    (panel,) = interactions_plot(PAIRS).axes
    assert [list(line.get_xdata()) for line in panel.lines] == [[1, 2], [0, 1]]
    assert [text.get_text() for text in panel.get_xticklabels()] == ["0", "0.5", "1"]
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["4", "8"]


def test_the_front_s_growth_is_in_percent_of_its_end() -> None:
    (panel,) = history_plot(HISTORY).axes
    assert list(panel.lines[0].get_ydata()) == [25.0, 25.0, 100.0]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.ablation_plot([], X, X),
        lambda: plots.agreement_plot([], X, X),
        lambda: plots.budget_plot([], X),
        lambda: plots.effects_plot({}),
        lambda: plots.history_plot([]),
        lambda: plots.interactions_plot([]),
        lambda: plots.pareto_chart([], X, X),
        lambda: plots.pareto_plot([], X, X),
        lambda: plots.rd_chart([]),
        lambda: plots.rd_plot([]),
    ],
)
def test_nothing_is_not_drawn(draw: Callable[[], object]) -> None:
    with pytest.raises(LabError, match=r"^no [a-z ]+ given$"):
        draw()


@pytest.mark.parametrize("draw", [effects_plot, interactions_plot, history_plot])
def test_a_plot_is_well_formed_and_the_same_each_time(draw: object) -> None:
    given = {effects_plot: EFFECTS, interactions_plot: PAIRS, history_plot: HISTORY}[draw]
    first, second = figure_svg(draw(given)), figure_svg(draw(given))
    assert ET.fromstring(first).tag.endswith("svg")
    assert first == second

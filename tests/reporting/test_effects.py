"""Effects of axes: means over the trials that have a value, and their plots."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from tcm_lab._foundation import LabError
from tcm_lab.reporting import (
    Axis,
    figure_svg,
    hypervolume_plot,
    importance_plot,
    interaction,
    interaction_plot,
    main_effect_plot,
    main_effects,
)

TRIALS = [
    ({"split": 0.5, "kind": "a", "same": 1}, 1.0),
    ({"split": 0.5, "kind": "b", "same": 1}, 3.0),
    ({"split": 1.0, "kind": "a", "same": 1}, 11.0),
    ({"split": 10, "kind": "a", "only": 2, "same": 1}, 5.0),
]
Y = Axis(name="Lagrangian cost", unit="%")


def test_effects_are_means_at_each_value_the_strongest_axis_first() -> None:
    split, kind = main_effects(TRIALS)
    assert (split.axis, kind.axis) == ("split", "kind")
    assert [(level.name, level.mean, level.trials) for level in split.levels] == [
        ("0.5", 2.0, 2),
        ("1", 11.0, 1),
        ("10", 5.0, 1),
    ]
    assert (split.levels[0].low, split.levels[0].high) == (1.5, 2.5)
    assert split.is_ordered
    assert not kind.is_ordered
    assert split.span == 9.0


def test_an_interaction_is_empty_where_no_trial_is() -> None:
    table = interaction(TRIALS, "split", "kind")
    assert table.rows == ("0.5", "1", "10")
    assert table.columns == ("a", "b")
    assert table.means == ((1.0, 3.0), (11.0, None), (5.0, None))


def test_plots_of_a_search_are_well_formed_and_the_same_each_time() -> None:
    def draw() -> list[str]:
        shares = {"cost": {"split": 0.7, "kind": 0.3}, "quality": {"split": 1.0}}
        return [
            figure_svg(main_effect_plot(main_effects(TRIALS), Y, title="Effects")),
            figure_svg(interaction_plot(interaction(TRIALS, "split", "kind"), Y)),
            figure_svg(importance_plot(shares)),
            figure_svg(hypervolume_plot({"tpe": [0.0, 0.5, 0.6]}, best=0.7)),
        ]

    first = draw()
    assert first == draw()
    for svg in first:
        assert ET.fromstring(svg).tag.endswith("svg")


def test_an_axis_of_words_has_no_line_between_its_values() -> None:
    split, kind = main_effect_plot(main_effects(TRIALS), Y).axes
    assert split.lines[0].get_linestyle() == "-"
    assert kind.lines[0].get_linestyle() == "None"


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(LabError, match="none to draw"):
        main_effect_plot([], Y)
    with pytest.raises(LabError, match="none to draw"):
        importance_plot({})
    with pytest.raises(LabError, match="none to draw"):
        interaction_plot(interaction(TRIALS, "split", "nothing"), Y)

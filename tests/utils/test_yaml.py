"""YAML as users write it, beside Python's own reading of numbers."""

from __future__ import annotations

import pytest

from tcm_lab._utils.yaml import parse_value


@pytest.mark.parametrize("text", ["1e-3", "-1e-3", "+2E4", "1e3", "1.e3", ".5e1", "1.0e-3", "0.5"])
def test_a_number_on_a_command_line_is_read_as_python_reads_it(text: str) -> None:
    assert type(parse_value(text, "")) is float
    assert parse_value(text, "") == float(text)
    assert parse_value(f"{{a: [{text}]}}", "") == {"a": [float(text)]}


@pytest.mark.parametrize("text", ["'1e-3'", "1e", "e3", "1e3x", "v1e3", "2026e-"])
def test_other_words_of_a_command_line_stay_text(text: str) -> None:
    assert parse_value(text, "") == text.strip("'")

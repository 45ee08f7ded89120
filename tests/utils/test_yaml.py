"""YAML as users write it, beside Python's own reading of numbers."""

from __future__ import annotations

import pytest

from tcm_lab._utils.yaml import parse_value, parse_yaml, to_yaml


@pytest.mark.parametrize("text", ["1e-3", "-1e-3", "+2E4", "1e3", "1.e3", ".5e1", "1.0e-3", "0.5"])
def test_a_number_is_read_as_python_reads_it(text: str) -> None:
    assert type(parse_value(text, "")) is float
    assert parse_value(text, "") == float(text)
    assert parse_yaml(f"a: {text}\nb: [{text}]", "") == {"a": float(text), "b": [float(text)]}


@pytest.mark.parametrize("text", ["'1e-3'", "1e", "e3", "1e3x", "v1e3", "2026e-"])
def test_other_words_stay_text(text: str) -> None:
    assert parse_value(text, "") == text.strip("'")


@pytest.mark.parametrize("value", ["1e3", "12e45678", "1.5", "0x10", "on", "~", "", 1e-5, 1e22, 7])
def test_what_is_written_is_read_back(value: object) -> None:
    read = parse_yaml(to_yaml({"a": value, "b": {"c": [value]}}), "")
    assert read == {"a": value, "b": {"c": [value]}}
    assert type(read["a"]) is type(value)

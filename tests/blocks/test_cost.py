"""The count type: a value that adds up, and a field of records."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from tcm_lab.blocks import Cost, Kind
from tcm_lab.blocks.cost import conv_cost


class Stored(BaseModel):
    parts: dict[str, Cost]


def test_a_cost_comes_back_from_a_record_s_json() -> None:
    stored = Stored(parts={"g_a": conv_cost(3, 8, 5, 16, 16), "empty": Cost()})
    again = Stored.model_validate_json(stored.model_dump_json())
    assert again == stored
    assert set(again.parts["g_a"].macs) == {Kind.CONVOLUTION}
    assert again.parts["g_a"].total_parameters == 3 * 8 * 25 + 8


@pytest.mark.parametrize(
    "text",
    [
        '{"macs": {"convolutions": 1}}',
        '{"macs": {"convolution": -1}}',
        '{"macs": {}, "flops": 3}',
    ],
)
def test_a_record_s_cost_is_validated(text: str) -> None:
    with pytest.raises(ValidationError):
        Stored.model_validate_json(f'{{"parts": {{"g_a": {text}}}}}')


def test_costs_add_up_and_multiply_by_kind() -> None:
    a = Cost({Kind.LINEAR: 2, Kind.ATTENTION: 0}, {Kind.LINEAR: 3}, 4)
    b = Cost({Kind.LINEAR: 1, Kind.GDN: 5}, {}, 1)
    assert 2 * a + b == Cost({Kind.LINEAR: 5, Kind.GDN: 5}, {Kind.LINEAR: 6}, 9)
    assert sum([a, b], Cost()).total_macs == 8
    assert Cost({Kind.LINEAR: 0}) == Cost()

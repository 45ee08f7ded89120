from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tcm_lab._compat.torchvision import import_compressai
from tcm_lab.codec import CodingError
from tcm_lab.codec.distributions import GENERALISED_SCALE_TABLES, SCALE_TABLES, Distribution
from tcm_lab.codec.portable import (
    MARGIN,
    Agreement,
    portable_cdfs,
    portable_scales,
    read_list,
    symbol_counts,
    write_list,
)


def _values(images: int, count: int) -> Tensor:
    """Return values of which many lie on a middle between two integers, or a margin beside it."""
    whole = torch.randint(-900, 900, (images, count)).double()
    near = MARGIN * torch.linspace(-3, 3, count, dtype=torch.float64)
    return torch.where(torch.rand(images, count) < 0.5, whole + 0.5 + near, whole + 0.1)


@pytest.mark.parametrize("images", [1, 3])
def test_a_decoder_less_than_a_margin_off_rounds_as_the_encoder_did(images: int) -> None:
    parts = [_values(images, 400), _values(1, 70), torch.zeros(images, 0).double()]
    encoder = Agreement(images)
    written = [encoder(values) for values in parts]
    for _ in range(20):
        decoder = Agreement(images, encoder.lists())
        for values, expected in zip(parts, written, strict=True):
            off = 0.99 * MARGIN * (2 * torch.rand(values.shape).double() - 1)
            assert torch.equal(decoder(values + off), expected)
        assert decoder.checksum(5) == encoder.checksum(5)


def test_what_lies_beyond_the_margin_is_rounded_to_the_nearest_and_not_listed() -> None:
    encoder = Agreement(1)
    values = torch.tensor([[0.5 + 2 * MARGIN, 0.5 - 2 * MARGIN, 7.0, -3.2]]).double()
    assert encoder(values).tolist() == [[1, 0, 7, -3]]
    assert encoder.lists() == [b""]


def test_the_margin_grows_with_values_beyond_what_float64_holds_to_it() -> None:
    values = torch.tensor([[2.0**27, 0.5 + 500 * MARGIN]]).double()
    encoder = Agreement(1)
    assert encoder(values)[0, 1] == 0
    assert read_list(encoder.lists()[0]).tolist() == [1]


@pytest.mark.parametrize("value", [2.0**36, float("inf"), float("nan")])
def test_values_that_cannot_be_agreed_on_are_refused(value: float) -> None:
    with pytest.raises(CodingError, match="too large for a portable stream"):
        Agreement(1)(torch.tensor([[value]]).double())


def test_float32_is_refused() -> None:
    with pytest.raises(CodingError, match="let it compute in the dtype of its input"):
        Agreement(1)(torch.zeros(1, 3))


@settings(suppress_health_check=[HealthCheck.too_slow])  # it goes by the clock
@given(st.sets(st.integers(0, 2**40)))
def test_a_list_comes_back(positions: set[int]) -> None:
    ordered = np.array(sorted(positions), dtype=np.int64)
    written = write_list(ordered)
    assert np.array_equal(read_list(written), ordered)


def test_a_list_takes_a_byte_for_each_of_many_neighbours_and_three_for_one_in_a_million() -> None:
    assert len(write_list(np.arange(1000))) == 1000
    assert len(write_list(np.array([1_000_000]))) == 3


@pytest.mark.parametrize("spoilt", [b"\x80", b"\xff" * 9, b"\xff" * 8 * 300])
def test_a_damaged_list_is_refused(spoilt: bytes) -> None:
    with pytest.raises(CodingError, match="the encoder decided is damaged"):
        read_list(spoilt)


@pytest.mark.parametrize(
    "distribution", [*SCALE_TABLES.values(), *GENERALISED_SCALE_TABLES.values()]
)
def test_no_probability_of_a_table_is_near_a_rounding_boundary(distribution: Distribution) -> None:
    for scale, centre in portable_scales(distribution):
        counts = torch.cat(symbol_counts(distribution, scale, centre))
        assert ((counts - counts.floor()) - 0.5).abs().min() > 1e-8  # and float64 is 1e-11 off
        assert 1e-8 < centre - scale * distribution.reach < 1 - 1e-8


@pytest.mark.parametrize("kind", SCALE_TABLES)
def test_the_gaussian_tables_are_compressai_s_but_for_float32(kind: str) -> None:
    compressai = import_compressai()
    conditional = compressai.entropy_models.GaussianConditional(None)
    conditional.update_scale_table(
        compressai.models.base.get_scale_table(levels=SCALE_TABLES[kind].count), force=True
    )
    _assert_nearly_the_tables_of(conditional, SCALE_TABLES[kind], apart=8)


@pytest.mark.parametrize("kind", GENERALISED_SCALE_TABLES)
def test_the_other_tables_are_those_of_streams_that_are_not_portable(kind: str) -> None:
    distribution = GENERALISED_SCALE_TABLES[kind]
    conditional = distribution.conditional()
    conditional.update_scale_table(distribution.scale_table(), force=True)
    # What rounding leaves over of 2¹⁶ goes to the symbol for all others: a hundred at most.
    _assert_nearly_the_tables_of(conditional, distribution, apart=100)


def _assert_nearly_the_tables_of(
    conditional: Any, distribution: Distribution, *, apart: int
) -> None:
    cdfs, lengths, offsets = portable_cdfs(distribution)
    assert lengths == conditional.cdf_length.tolist()
    assert offsets == conditional.offset.tolist()
    for row, theirs in zip(cdfs, conditional.quantized_cdf.tolist(), strict=True):
        assert _most_apart(row, theirs[: len(row)]) <= apart


def _most_apart(a: Sequence[int], b: Sequence[int]) -> int:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))

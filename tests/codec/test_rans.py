"""What feeds CompressAI's coder: the bytes of the plain call, and nothing read behind a stream."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tcm_lab._compat.torchvision import import_compressai
from tcm_lab.codec.coding import (
    SYMBOL_LIMIT,
    Cdfs,
    ScaleTables,
    guard_stream,
    read_symbols,
    write_stream,
)
from tcm_lab.codec.distributions import SCALE_TABLES
from tcm_lab.codec.portable import portable_cdfs
from tcm_lab.errors import LabError

import_compressai()
from compressai import ans  # noqa: E402  # imports only after that


def _tables() -> dict[str, Cdfs]:
    """Return tables of both kinds, and one of more rows than a byte can number."""
    fine = SCALE_TABLES["fine"]
    conditional = fine.conditional()
    conditional.update_scale_table(fine.scale_table())
    narrow = portable_cdfs(SCALE_TABLES["compressai"])
    return {
        "plain": ScaleTables(conditional, nearest=True).cdfs,
        "portable": portable_cdfs(fine),
        "many": (narrow[0][:3] * 100, narrow[1][:3] * 100, narrow[2][:3] * 100),
    }


TABLES = _tables()


def _draw(rows: int, spread: float, largest: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    indexes = torch.randint(rows, (4000,), generator=generator, dtype=torch.int32)
    symbols = (spread * torch.randn(4000, generator=generator)).round().int()
    symbols[1000] = largest
    return symbols.clamp(-abs(largest), abs(largest)), indexes


@pytest.mark.parametrize("rows", [1, 9, 256, 300])
@pytest.mark.parametrize(
    ("spread", "largest"),
    [
        (0, 0),
        (30, 127),
        (30, 128),
        (30, -128),
        (30, -129),
        (900, 5000),
        (1e7, SYMBOL_LIMIT - 1),
        (1e7, 1 - SYMBOL_LIMIT),
    ],
)
@pytest.mark.parametrize("kind", TABLES)
def test_a_stream_is_what_the_coder_writes_from_whole_lists_and_reads_from_them(
    kind: str, rows: int, spread: float, largest: int
) -> None:
    cdfs = TABLES[kind]
    symbols, indexes = _draw(min(rows, len(cdfs[0])), spread, largest)
    lists = symbols.tolist(), indexes.tolist()
    stream = ans.RansEncoder().encode_with_indexes(*lists, *cdfs)
    assert write_stream(symbols, indexes, cdfs) == stream
    assert ans.RansDecoder().decode_with_indexes(stream, lists[1], *cdfs) == lists[0]
    decoder = ans.RansDecoder()
    decoder.set_stream(guard_stream(stream, len(symbols)))
    parts = [
        read_symbols(decoder.decode_stream, k, cdfs) for k in indexes.split([0, 1, 2999, 1000])
    ]
    assert [part.dtype for part in parts] == 4 * [torch.int32]
    assert torch.cat(parts).tolist() == lists[0]


def test_the_coder_is_given_no_distribution_behind_the_last_that_is_needed() -> None:
    seen: list[Any] = []

    def decode(indexes: Any, *cdfs: Any) -> list[int]:
        seen.append((list(indexes), [len(each) for each in cdfs]))
        return [128] * len(indexes)

    for indexes in ([], [0], [3, 7, 2]):
        given = torch.tensor(indexes, dtype=torch.int32)
        assert read_symbols(decode, given, TABLES["plain"]).tolist() == [0] * len(indexes)
    assert seen == [([], [0, 0, 0]), ([0], [1, 1, 1]), ([3, 7, 2], [8, 8, 8])]


def _hostile(whole: bytes) -> dict[str, bytes]:
    """Return streams that no encoder wrote, but a decoder may be given."""
    noise = torch.randint(256, (400,), generator=torch.Generator().manual_seed(1)).tolist()
    ones = b"\xff" * 60
    return {
        "cut": whole[:-400],
        "one word": whole[:4],
        "noughts": bytes(8),
        "noise": bytes(noise),
        "ones": ones,
        "noise, then ones": bytes(noise) + ones,
        **{f"cut by {n}, then ones": whole[: -4 * n] + ones for n in range(1, 40)},
    }


@pytest.mark.parametrize("count", [1, 3, 4000])
@pytest.mark.parametrize("kind", TABLES)
def test_a_decoder_reads_nothing_behind_the_guard(kind: str, count: int) -> None:
    cdfs = TABLES[kind]
    symbols, indexes = _draw(len(cdfs[0]), 3, 20)
    whole = ans.RansEncoder().encode_with_indexes(symbols.tolist(), indexes.tolist(), *cdfs)
    for name, stream in _hostile(whole).items():
        guarded = guard_stream(stream, count)
        read = []
        for behind in (b"\0", b"\xff", b"\xa7"):
            decoder = ans.RansDecoder()
            decoder.set_stream(guarded + 100_000 * behind)
            read.append(decoder.decode_stream(indexes[:count].tolist(), *cdfs))
        assert read[0] == read[1] == read[2], name


@pytest.mark.parametrize("length", [64, 4000, 4_000_000])
def test_a_stream_that_claims_endless_digits_is_refused(length: int) -> None:
    # A word of ones counts 120 digits, and decoding them used to run far beyond the stream.
    with pytest.raises(LabError, match=f"{length} bytes are not a rANS stream: .* more digits"):
        guard_stream(b"\xff" * length, 4000)


@pytest.mark.parametrize("count", [0, 3, 5])
def test_a_symbol_without_an_index_is_refused(count: int) -> None:
    symbols, indexes = torch.zeros(4, dtype=torch.int32), torch.zeros(count, dtype=torch.int32)
    with pytest.raises(LabError, match=f"4 symbols need as many indexes, not {count}"):
        write_stream(symbols, indexes, TABLES["plain"])


@pytest.mark.parametrize("count", [4, 5, 6, 7])
def test_four_symbols_or_more_fit_the_coders_buffer(count: int) -> None:
    """It has a word for each symbol; the rarest take half of one, and the state takes two."""
    rarest: Cdfs = ([[0, 1, 65536]], [3], [0])
    symbols, indexes = torch.zeros(count, dtype=torch.int32), torch.zeros(count, dtype=torch.int32)
    stream = write_stream(symbols, indexes, rarest)
    assert len(stream) <= 4 * count

"""What CompressAI's coder is given: nothing that makes it read behind a stream."""

import pytest
import torch
from torch import Tensor

from tcm_lab._compat.torchvision import import_compressai
from tcm_lab.codec.coding import Cdfs, ScaleTables, guard_stream
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

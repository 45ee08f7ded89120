"""From mean and scale to ŷ: estimate it, or encode to and decode from real rANS bytes.

Each image has one stream of all symbols of y, in the order in which the entropy model codes them.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int32
from torch import Tensor, nn

from tcm_lab._utils.sections import section
from tcm_lab.codec.distributions import Distribution
from tcm_lab.codec.entropy_models import Places
from tcm_lab.errors import LabError


class CodingError(LabError):
    """Coded bytes that do not decode here."""


#: Probabilities that the 16-bit coder gives to the least likely symbol of a table, and to a symbol
#: outside it: an escape, a count of 4-bit digits, and one such digit.
_LEAST, _BEYOND = 2**-16, 2**-24
#: From this magnitude on, CompressAI's coder shifts a 32-bit word by 32 bits and never ends.
SYMBOL_LIMIT = 2**27
#: Symbols in a table of z. Each takes at least one of 2¹⁶ parts, and the time to share them out
#: grows with the square of their number.
_LONGEST = 2**15
#: Added to symbols for the coder and subtracted afterwards, so that most of them fit into a byte.
_SHIFT = 128
#: A run of ones that no valid stream contains, and bytes for the digits that a shorter run counts.
_ONES, _DIGITS = b"\xff" * 64, 2048

#: Tables for rANS: each distribution (without padding, since the coder copies all of them at every
#: call), its length, and its first symbol.
Cdfs = tuple[list[list[int]], list[int], list[int]]


class SymbolTables(Protocol):
    """The distributions of the symbols of y."""

    cdfs: Cdfs

    def indexes(self, scale: Tensor) -> Tensor:
        """Return, for each scale, the index of its distribution (int32)."""
        ...


class ScaleTables:
    """The quantised cumulative distributions of a conditional, in the form that rANS needs.

    Args:
        conditional: CompressAI's Gaussian conditional, or one like it, after
            ``update_scale_table``.
        nearest: whether a scale uses the distribution of the nearest tabulated scale (in the
            logarithm), rather than of the next larger one as in CompressAI.
    """

    def __init__(self, conditional: Any, *, nearest: bool) -> None:
        lengths = conditional.cdf_length.reshape(-1).tolist()
        rows = zip(conditional.quantized_cdf.tolist(), lengths, strict=True)
        self.cdfs: Cdfs = (
            [row[:length] for row, length in rows],
            lengths,
            conditional.offset.reshape(-1).tolist(),
        )
        # The last scale is open-ended: an index counts the bounds that are smaller.
        scales: Tensor = conditional.scale_table
        self.bounds: Tensor = (
            (scales[:-1] * scales[1:]).sqrt() if nearest else scales[:-1].contiguous()
        )

    def indexes(self, scale: Tensor) -> Tensor:
        """Return, for each scale, the index of its distribution (int32)."""
        self.bounds = self.bounds.to(scale.device)
        return torch.bucketize(scale.contiguous(), self.bounds, out_int32=True)


def round_to_mean(y: Tensor, mean: Tensor) -> Tensor:
    """Quantise ``y`` to whole steps from ``mean``, with the gradient of the identity to ``y``."""
    offset = y - mean
    steps = offset.round()
    if offset.requires_grad:
        steps = offset + (steps - offset).detach()
    return steps + mean


class Estimator:
    """Quantises a latent y without coding, and keeps means and scales for the likelihoods.

    Attributes:
        means: means of the elements coded so far, (B, M, h, w); zero elsewhere.
        scales: their scales, in the same form.
    """

    def __init__(self, y: Float[Tensor, "b m h w"]) -> None:
        self._y = y
        # Likelihoods need at least float32, even if autocast has lowered y's precision.
        dtype = torch.promote_types(y.dtype, torch.float32)
        self.means = torch.zeros_like(y, dtype=dtype)
        self.scales = torch.zeros_like(y, dtype=dtype)

    def __call__(self, places: Places, mean: Tensor, scale: Tensor) -> Tensor:
        """Quantise the places to whole steps from their means."""
        y = _at(places, self._y, mean)
        places.put(self.means, mean)
        places.put(self.scales, scale)
        return places.masked(round_to_mean(y, mean))

    def likelihoods(self, conditional: Any, coded: Distribution | None) -> Tensor:
        """Return y's likelihoods, once every element has a mean and a scale.

        Args:
            conditional: CompressAI's Gaussian conditional, or one like it.
            coded: the distribution of the coder's tables, if the logarithms are to be the bits that
                rANS spends, large scales and outliers included.
        """
        scales = self.scales if coded is None else self.scales.clamp(max=coded.highest)
        likelihoods: Tensor = conditional(self._y, scales, self.means)[1]
        if coded is None:
            return likelihoods
        steps = (self._y - self.means).round().abs()
        reach = (coded.reach * scales.clamp(min=coded.lowest)).ceil()
        return torch.where(steps > reach, _BEYOND, likelihoods.clamp(min=_LEAST))


class SymbolEncoder:
    """Collects y's symbols and their distributions, then writes one stream per image."""

    def __init__(self, y: Float[Tensor, "b m h w"], tables: SymbolTables) -> None:
        self._y = y
        self._tables = tables
        self._symbols: list[Tensor] = []
        self._indexes: list[Tensor] = []
        self._largest = y.new_zeros(())

    def __call__(self, places: Places, mean: Tensor, scale: Tensor) -> Tensor:
        """Quantise the places and record their symbols."""
        symbols = places.flat((_at(places, self._y, mean) - mean).round())
        if symbols.numel():
            self._largest = torch.maximum(self._largest, symbols.abs().max())
        self._symbols.append(symbols.int())
        self._indexes.append(self._tables.indexes(places.flat(scale)))
        return places.around(mean, self._symbols[-1])

    def strings(self) -> list[bytes]:
        """Write the streams, one per image.

        Raises:
            CodingError: a symbol is NaN, or too large for the coder.
        """
        refuse_large_symbols("y", self._largest)
        with section("copies"):
            symbols = torch.cat(self._symbols, 1).cpu()
            indexes = torch.cat(self._indexes, 1).cpu()
        with section("entropy_coding"):
            return [
                write_stream(s, k, self._tables.cdfs) for s, k in zip(symbols, indexes, strict=True)
            ]

    def checksum(self) -> int:
        """Return a CRC-32 over all symbols, to compare with the decoder's."""
        return _checksum(self._symbols)


class SymbolDecoder:
    """Reads ``symbols`` symbols from each stream, one stream per image.

    Raises:
        CodingError: a string is not a rANS stream.
    """

    def __init__(self, strings: Sequence[bytes], symbols: int, tables: SymbolTables) -> None:
        from compressai.ans import RansDecoder

        self._tables = tables
        self._decoders = []
        self._symbols: list[Tensor] = []
        for string in strings:
            decoder = RansDecoder()
            decoder.set_stream(guard_stream(string, symbols))
            self._decoders.append(decoder)

    def __call__(self, places: Places, mean: Tensor, scale: Tensor) -> Tensor:
        """Read the symbols of the next places and add their means."""
        indexes = self._tables.indexes(places.flat(scale))
        with section("copies"):
            indexes = indexes.cpu()
        with section("entropy_coding"):
            decoded = [
                read_symbols(decoder.decode_stream, k, self._tables.cdfs)
                for decoder, k in zip(self._decoders, indexes, strict=True)
            ]
            self._symbols.append(torch.stack(decoded))
        with section("copies"):
            symbols = self._symbols[-1].to(mean.device)
        return places.around(mean, symbols)

    def checksum(self) -> int:
        """Return a CRC-32 over all symbols, to compare with the encoder's."""
        return _checksum(self._symbols)


def _at(places: Places, latent: Tensor, mean: Tensor) -> Tensor:
    """Return a latent at the places.

    Raises:
        LabError: the means have another shape.
    """
    values = places.of(latent)
    if values.shape != mean.shape:
        raise LabError(
            f"the entropy model gives means and scales {tuple(mean.shape)} for places of shape "
            f"{tuple(values.shape)}; expand one of them to this shape"
        )
    return values


def refuse_large_symbols(latent: str, largest: Tensor) -> None:
    """Refuse to code a latent whose largest magnitude, in steps, the coder cannot write.

    Raises:
        CodingError: it is NaN, or not below ``SYMBOL_LIMIT``.
    """
    if not largest < SYMBOL_LIMIT:
        raise CodingError(
            f"{latent} holds a symbol of magnitude {float(largest):.4g}, but the entropy coder "
            f"writes only those below {SYMBOL_LIMIT}: the weights are damaged or not trained."
        )


def refuse_damaged_prior(prior: nn.Module, lengths: Float[Tensor, " n"]) -> None:
    """Refuse a prior of z that has no coding tables, before they are made.

    Args:
        prior: the prior.
        lengths: number of symbols in each channel's table.

    Raises:
        CodingError: a weight is NaN, or a table is not finite or too long.
    """
    longest = lengths.max()  # NaN, if there is one
    if any(bool(weight.isnan().any()) for weight in prior.parameters()):
        longest = longest * torch.nan
    if not longest <= _LONGEST:
        raise CodingError(
            f"the prior of z asks for a table of {float(longest):.4g} symbols, but the entropy "
            f"coder supports at most {_LONGEST}: the weights are damaged or not trained"
        )


def refuse_other_symbols(name: str, *, portable: bool) -> NoReturn:
    """Refuse a stream from which the codec ``name`` decoded other symbols than were encoded.

    Raises:
        CodingError: always; the message lists possible reasons.
    """
    arithmetic = (
        "with larger errors in float64 than a portable stream allows"
        if portable
        else "on another device, dtype or thread count (which a portable stream allows)"
    )
    raise CodingError(
        "the decoder read other symbols than the encoder wrote: the bytes were coded with "
        f"other weights, {arithmetic}, or a layer of {name} is not deterministic (dropout or "
        "another random choice)"
    )


def write_stream(symbols: Int32[Tensor, " n"], indexes: Int32[Tensor, " n"], cdfs: Cdfs) -> bytes:
    """Code symbols with the distributions at ``indexes`` into one rANS stream, all on the CPU.

    Raises:
        CodingError: there are not as many indexes as symbols.
    """
    from compressai.ans import RansEncoder

    if len(symbols) != len(indexes):  # the coder reads beyond the shorter list
        raise CodingError(f"{len(symbols)} symbols need as many indexes, not {len(indexes)}")
    numbers, needed = _numbers(symbols + _SHIFT), _needed(cdfs, indexes)
    stream: bytes = RansEncoder().encode_with_indexes(numbers, _numbers(indexes), *needed)
    return stream


def read_symbols(
    decode: Callable[..., list[int]], indexes: Int32[Tensor, " n"], cdfs: Cdfs
) -> Int32[Tensor, " n"]:
    """Decode the next symbols with the distributions at ``indexes``, all on the CPU.

    ``decode`` is a decoder's method that takes indexes and the entries of ``cdfs``.
    """
    numbers = decode(_numbers(indexes), *_needed(cdfs, indexes))
    try:
        shifted = np.array(bytearray(numbers)).astype(np.int32)
    except ValueError:  # some do not fit into a byte
        shifted = np.array(numbers, dtype=np.int32)
    return torch.from_numpy(shifted - _SHIFT)


def _numbers(values: Int32[Tensor, " n"]) -> bytearray | array[int]:
    """Return integers as the type of sequence that the coder reads fastest."""
    numbers = values.numpy()
    low = numbers.astype(np.uint8)
    return bytearray(low) if np.array_equal(low, numbers) else array("i", numbers.tobytes())


def _needed(cdfs: Cdfs, indexes: Int32[Tensor, " n"]) -> Cdfs:
    """Return the distributions up to the last one in use, for shifted symbols.

    The coder copies all of them at every call, and the last ones are the longest and least used.
    """
    stop = int(indexes.max()) + 1 if len(indexes) else 0
    rows, lengths, firsts = cdfs
    return rows[:stop], lengths[:stop], [first + _SHIFT for first in firsts[:stop]]


def guard_stream(string: bytes, symbols: int) -> bytes:
    """Pad a stream so that decoding ``symbols`` symbols cannot read beyond it, valid or not.

    CompressAI's decoder trusts its input, so zeros are appended. In zeros a symbol takes at most
    one word, and less on average if it is outside its table. A symbol that begins before the zeros
    may take more: four ones count 15 digits of four bits, and say that the next four bits count,
    too. The encoder never writes more than 8 digits, so a long run of ones is refused.

    Raises:
        CodingError: the string cannot be a stream of 32-bit words.
    """
    if len(string) < 4 or len(string) % 4:
        raise CodingError(f"{len(string)} bytes are not a rANS stream of whole 32-bit words")
    if _ONES in string:
        raise CodingError(
            f"{len(string)} bytes are not a rANS stream: one of their symbols has more digits than "
            f"any below {SYMBOL_LIMIT}, the encoder's limit"
        )
    return string.ljust(len(string) + 4 * symbols + _DIGITS, b"\0")


def _checksum(symbols: Sequence[Tensor]) -> int:
    return zlib.crc32(torch.cat(list(symbols), 1).cpu().numpy().astype("<i4", copy=False).data)

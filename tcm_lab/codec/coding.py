"""From mean and scale to ŷ: estimating, encoding to and decoding from real rANS bytes.

One stream per image carries all symbols of y, slice by slice, each slice in (C, H, W) order; the
checkerboard's two passes follow each other within a slice.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tcm_lab._utils.sections import section
from tcm_lab.errors import LabError


class CodingError(LabError):
    """Coded bytes that do not decode here."""


#: How many scales, spread evenly in their logarithm, have a distribution of their own.
SCALES = {"fine": 256, "compressai": 64}
#: What the coder's 16-bit probabilities give the least likely symbol of a table, and one beyond it:
#: that it is beyond, how many digits of four bits it has, and one such digit.
_LEAST, _BEYOND = 2**-16, 2**-24
#: A table ends where the tails beyond hold 1e-9, so many standard deviations from the mean.
_REACH = 6.1094
_SMALLEST_SCALE = 0.11
#: From here on CompressAI's coder shifts a 32-bit word by 32 bits and never ends.
SYMBOL_LIMIT = 2**27


#: What rANS takes: each distribution (without padding, since the coder copies all of them at every
#: call), its length, and its first symbol.
Cdfs = tuple[list[list[int]], list[int], list[int]]


class SliceTables(Protocol):
    """The distributions of the slices' symbols."""

    cdfs: Cdfs

    def indexes(self, scale: Tensor) -> Tensor:
        """Return, for each scale, the index of its distribution (int32)."""
        ...


class GaussianTables:
    """The quantised cumulative distributions of a `GaussianConditional`, as rANS wants them.

    Args:
        conditional: CompressAI's Gaussian conditional after ``update_scale_table``.
        nearest: whether a scale takes the distribution of the nearest scale that has one (in
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
        return torch.bucketize(scale.contiguous(), self.bounds.to(scale.device), out_int32=True)


def likelihoods_as_coded(likelihoods: Tensor, y: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """Return y's likelihoods so that their logarithms are what rANS spends, on outliers too.

    Args:
        likelihoods: of the Gaussians, with a floor.
        y: the latent.
        means: of the Gaussians.
        scales: of the Gaussians.
    """
    steps = (y - means).round().abs()
    reach = (_REACH * scales.clamp(min=_SMALLEST_SCALE)).ceil()
    return torch.where(steps > reach, _BEYOND, likelihoods.clamp(min=_LEAST))


def round_to_mean(y: Tensor, mean: Tensor) -> Tensor:
    """Quantise ``y`` to whole steps from ``mean``, with the gradient of the identity to ``y``."""
    offset = y - mean
    steps = offset.round()
    if offset.requires_grad:
        steps = offset + (steps - offset).detach()
    return steps + mean


def _place(values: Tensor, where: Tensor | None) -> Tensor:
    return values if where is None else values * where


class Estimator:
    """Quantises without coding, and keeps the means and scales for the likelihoods.

    Args:
        y: the latent, (B, M, h, w).
        widths: each slice's channels.
    """

    def __init__(self, y: Float[Tensor, "b m h w"], widths: Sequence[int]) -> None:
        self._y = y.split(list(widths), 1)
        self._means: dict[int, Tensor] = {}
        self._scales: dict[int, Tensor] = {}

    def __call__(
        self,
        i: int,
        mean: Float[Tensor, "b s h w"],
        scale: Float[Tensor, "b s h w"],
        where: Bool[Tensor, "h w"] | None,
    ) -> Float[Tensor, "b s h w"]:
        """Quantise slice ``i`` to whole steps from its mean."""
        for kept, value in ((self._means, mean), (self._scales, scale)):
            kept[i] = _place(value, where) + kept.get(i, 0)
        return _place(round_to_mean(self._y[i], mean), where)

    def parameters(self) -> tuple[Tensor, Tensor]:
        """Return the means and the scales of all slices, each (B, M, h, w)."""
        means = torch.cat([self._means[i] for i in range(len(self._y))], 1)
        return means, torch.cat([self._scales[i] for i in range(len(self._y))], 1)


class SymbolEncoder:
    """Collects symbols and their distributions, then writes one stream per image.

    Args:
        y: the latent, (B, M, h, w).
        widths: each slice's channels.
        tables: the distributions.
    """

    def __init__(
        self, y: Float[Tensor, "b m h w"], widths: Sequence[int], tables: SliceTables
    ) -> None:
        self._y = y.split(list(widths), 1)
        self._tables = tables
        self._symbols: list[Tensor] = []
        self._indexes: list[Tensor] = []
        self._largest = y.new_zeros(())

    def __call__(
        self,
        i: int,
        mean: Float[Tensor, "b s h w"],
        scale: Float[Tensor, "b s h w"],
        where: Bool[Tensor, "h w"] | None,
    ) -> Float[Tensor, "b s h w"]:
        """Quantise slice ``i`` and remember its symbols."""
        symbols = _flat((self._y[i] - mean).round(), where)
        if symbols.numel():
            self._largest = torch.maximum(self._largest, symbols.abs().max())
        self._symbols.append(symbols.int())
        self._indexes.append(self._tables.indexes(_flat(scale, where)))
        return _from_symbols(self._symbols[-1], mean, where)

    def strings(self) -> list[bytes]:
        """Write the streams, one per image.

        Raises:
            CodingError: a symbol is NaN or beyond what the coder can write.
        """
        from compressai.ans import RansEncoder

        refuse_large_symbols("y", self._largest)
        with section("copies"):
            symbols = torch.cat(self._symbols, 1).cpu()
            indexes = torch.cat(self._indexes, 1).cpu()
        with section("entropy_coding"):
            return [
                RansEncoder().encode_with_indexes(s.tolist(), k.tolist(), *self._tables.cdfs)
                for s, k in zip(symbols, indexes, strict=True)
            ]

    def checksum(self) -> int:
        """Return a CRC-32 over all symbols, to compare with the decoder's."""
        return _checksum(self._symbols)


class SymbolDecoder:
    """Reads symbols from one stream per image.

    Args:
        strings: the streams.
        symbols: how many symbols each holds.
        tables: the distributions.

    Raises:
        CodingError: a string is no rANS stream.
    """

    def __init__(self, strings: Sequence[bytes], symbols: int, tables: SliceTables) -> None:
        from compressai.ans import RansDecoder

        self._tables = tables
        self._decoders = []
        self._symbols: list[Tensor] = []
        for string in strings:
            decoder = RansDecoder()
            decoder.set_stream(guard_stream(string, symbols))
            self._decoders.append(decoder)

    def __call__(
        self,
        i: int,
        mean: Float[Tensor, "b s h w"],
        scale: Float[Tensor, "b s h w"],
        where: Bool[Tensor, "h w"] | None,
    ) -> Float[Tensor, "b s h w"]:
        """Read the symbols of the next slice and add its mean."""
        indexes = self._tables.indexes(_flat(scale, where))
        with section("copies"):
            indexes = indexes.cpu()
        with section("entropy_coding"):
            decoded = [
                decoder.decode_stream(k.tolist(), *self._tables.cdfs)
                for decoder, k in zip(self._decoders, indexes, strict=True)
            ]
            self._symbols.append(torch.from_numpy(np.array(decoded, dtype=np.int32)))
        with section("copies"):
            symbols = self._symbols[-1].to(mean.device)
        return _from_symbols(symbols, mean, where)

    def checksum(self) -> int:
        """Return a CRC-32 over all symbols, to compare with the encoder's."""
        return _checksum(self._symbols)


def refuse_large_symbols(latent: str, largest: Tensor) -> None:
    """Refuse to code a latent whose largest magnitude, in steps, the coder cannot write.

    Raises:
        CodingError: it is NaN, or not below ``SYMBOL_LIMIT``.
    """
    if not largest < SYMBOL_LIMIT:
        raise CodingError(
            f"{latent} holds a symbol of magnitude {float(largest):.4g}, and the entropy coder "
            f"writes only those below {SYMBOL_LIMIT}: the weights are damaged or not trained."
        )


def guard_stream(string: bytes, symbols: int) -> bytes:
    """Return a stream beyond whose end a decoder of ``symbols`` symbols cannot read, valid or not.

    CompressAI's decoder trusts its input; a symbol takes two words at most once the stream holds
    zeros, so that many zeros behind it bound every read.

    Raises:
        CodingError: the string cannot be a stream of 32-bit words.
    """
    if len(string) < 4 or len(string) % 4:
        raise CodingError(f"{len(string)} bytes are not a rANS stream, which is whole 32-bit words")
    return string + bytes(8 * symbols)


def _from_symbols(symbols: Tensor, mean: Tensor, where: Tensor | None) -> Tensor:
    """Return ŷ from its coded symbols (B, symbols): for encoder and decoder by this one function.

    Its memory layout follows from the mean's alone. What a layer computes from ŷ may depend on the
    layout, as the order of a sum does, and the decoder must compute what the encoder did.
    """
    y_hat = torch.zeros_like(mean)
    if where is None:
        return torch.add(symbols.reshape(mean.shape), mean, out=y_hat)
    y_hat[:, :, where] = symbols.reshape(*mean.shape[:2], -1) + mean[:, :, where]
    return y_hat


def _checksum(symbols: Sequence[Tensor]) -> int:
    return zlib.crc32(torch.cat(list(symbols), 1).cpu().numpy().astype("<i4").tobytes())


def _flat(values: Tensor, where: Tensor | None) -> Tensor:
    """Return (B, symbols) in (C, H, W) order, of the positions ``where`` only."""
    return (values if where is None else values[:, :, where]).flatten(1)

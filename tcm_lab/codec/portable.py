"""Streams that decode everywhere: the entropy coder's inputs, computed so that machines agree.

A decoder must reproduce the encoder's probabilities bit for bit, but float32 differs in its last
digits between devices, thread counts and kernels. So all that a portable stream depends on (means,
scales, refined ŷ, probability tables; from ẑ on, nothing else) is computed in float64 and rounded
to a grid. Two machines then differ only where a value lies so near the middle between two grid
points that they round it differently. The encoder lists these values, and both round them down.

The contract: a file decodes bit for bit wherever float64 results differ from the encoder's by less
than `MARGIN` of a grid step: for means and ŷ 2⁻³⁰ ≈ 9e-10 quantisation steps (more by the same
factor where the largest mean of those coded at once exceeds 128), for scales 3e-8 of their value.
IEEE arithmetic in any order, with any kernel, stays below it by orders of magnitude (numbers are in
``tests/portable/README.md``); a layer that computes in float32 inside, or a defect, does not. The
checksum over all values agreed on detects these.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor, nn

from tcm_lab._utils.sections import section
from tcm_lab.codec.coding import (
    Cdfs,
    CodingError,
    guard_stream,
    read_symbols,
    refuse_damaged_prior,
    refuse_large_symbols,
    write_stream,
)
from tcm_lab.codec.distributions import Distribution
from tcm_lab.codec.entropy_models import Coder, Places
from tcm_lab.codec.entropy_models.coder import PlaceCoder

#: Share of a grid step, around the middle between two grid points, in which the encoder decides.
MARGIN = 2.0**-20
#: Errors grow with the values: where one exceeds this many grid steps, the margin grows with it.
_EXACT = 2.0**17
#: Grid steps per quantisation step, for means and refined ŷ; and per unit, for gains.
GRID, _GAIN_GRID = 2.0**10, 2.0**18
_PRECISION = 16
_WIDEST = 56  # bits of a distance in a list


@contextmanager
def float64(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Hold weights and buffers in float64 inside the ``with`` block, with autocast off.

    Their modules stay the same objects, with their hooks, and get back the original data.

    Raises:
        CodingError: another thread has changed parameters meanwhile, as a training step does; the
            change was made to the float64 copies, and is lost.
    """
    originals = [
        (tensor, tensor.data) for tensor in dict.fromkeys(tensors) if tensor.is_floating_point()
    ]
    device = originals[0][1].device.type if originals else "cpu"
    for_inference = any(data.is_inference() for _, data in originals)  # usable only in that mode
    try:
        with torch.inference_mode(for_inference or torch.is_inference_mode_enabled()):
            for tensor, data in originals:
                tensor.data = data.double()
            versions = [_version(tensor) for tensor, _ in originals]
            with torch.autocast(device, enabled=False):
                yield
            is_changed = versions != [_version(tensor) for tensor, _ in originals]
    finally:
        for tensor, data in originals:
            tensor.data = data
    if is_changed:
        raise CodingError(
            "the weights were changed while a portable stream was coded, and that change is lost: "
            "do not train a codec in one thread while another codes with it, or code with a copy "
            "(copy.deepcopy)"
        )


def _version(tensor: Tensor) -> int:
    """Return a number that every in-place change of a parameter raises; 0 for other tensors."""
    if not isinstance(tensor, nn.Parameter) or tensor.is_inference():
        return 0
    return tensor._version


class Agreement:
    """Rounds values to integers on which encoder and decoder agree.

    The encoder rounds down the values within the margin of the middle between two integers, and
    lists their positions; the decoder rounds down those listed. Both round all others to the
    nearest integer.

    Args:
        images: B, number of images coded at once.
        lists: for the decoder, each image's list.

    Raises:
        CodingError: a list is damaged.
    """

    def __init__(self, images: int, lists: Sequence[bytes] | None = None) -> None:
        self._listed = None if lists is None else [read_list(text) for text in lists]
        self._decided = [torch.from_numpy(listed) for listed in self._listed or ()]
        self._found: list[list[np.ndarray[Any, Any]]] = [[] for _ in range(images)]
        self._seen = 0
        self._agreed: list[Tensor] = []

    def __call__(self, values: Float[Tensor, "#b n"]) -> Int64[Tensor, "#b n"]:
        """Round values of every image, or values (1, n) that all of them share.

        Raises:
            CodingError: the values are not float64, not finite, or too large to be agreed on.
        """
        if values.dtype != torch.float64:
            raise CodingError(
                f"a layer returns {values.dtype} for float64, on which no portable stream can "
                "rely; let it compute in the dtype of its input, or leave portable out"
            )
        chosen = self._decide(values) if self._listed is None else self._decided_here(values)
        image, position = chosen
        rounded = values.round()
        rounded[image, position] = values[image, position].floor()
        self._seen += values.shape[1]
        self._agreed.append(rounded.long())
        return self._agreed[-1]

    def _decide(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values (image, position) that the encoder has to decide, and list them."""
        if not values.numel():
            return (values.new_zeros(0, dtype=torch.long),) * 2
        largest = values.abs().amax(1, keepdim=True)
        margin = MARGIN * (largest / _EXACT).clamp(min=1)
        if not bool((margin < 0.25).all()):
            raise CodingError(
                f"the entropy model predicts a magnitude of {float(largest.max()) / GRID:.4g}, "
                "too large for a portable stream: the weights are damaged or not trained"
            )
        image, position = (((values - values.floor()) - 0.5).abs() < margin).nonzero(as_tuple=True)
        for b, positions in enumerate(self._found):
            own = position if len(values) == 1 else position[image == b]
            positions.append(own.cpu().numpy() + self._seen)
        return image, position

    def _decided_here(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values (image, position) that the encoder decided."""
        assert self._listed is not None
        # Moved once, so that later calls do not wait for a GPU.
        self._decided = [decided.to(values.device) for decided in self._decided]
        here: list[Tensor] = []
        for b, listed in enumerate(self._listed[: len(values)]):
            start, stop = np.searchsorted(listed, (self._seen, self._seen + values.shape[1]))
            own = self._decided[b][start:stop] - self._seen
            here.append(torch.stack((torch.full_like(own, b), own)))
        image, position = torch.cat(here, 1)
        return image, position

    def lists(self) -> list[bytes]:
        """Return the list that the decoder needs, for each image."""
        return [write_list(np.concatenate(positions)) for positions in self._found]

    def checksum(self, symbols: int) -> int:
        """Return a CRC-32 over all values agreed on, continuing that of the ``symbols``."""
        for agreed in self._agreed:
            symbols = zlib.crc32(agreed.cpu().numpy().astype("<i8").data, symbols)
        return symbols


def write_list(positions: np.ndarray[Any, Any]) -> bytes:
    """Write ascending positions by their distances, seven bits a byte, the lowest bits first."""
    written = bytearray()
    for distance in np.diff(positions, prepend=-1).tolist():
        rest = distance - 1
        while rest > 0x7F:
            written.append(rest & 0x7F | 0x80)
            rest >>= 7
        written.append(rest)
    return bytes(written)


def read_list(written: bytes) -> np.ndarray[Any, Any]:
    """Return the positions that `write_list` wrote.

    Raises:
        CodingError: the bytes are not a list.
    """
    positions, position, rest, shift = [], -1, 0, 0
    for byte in written:
        rest |= (byte & 0x7F) << shift
        shift += 7
        if byte > 0x7F and shift < _WIDEST:
            continue
        position, rest, shift = position + rest + 1, 0, 0
        positions.append(position)
    if shift or position >= 2**62:
        raise CodingError("the list of values that the encoder decided is damaged")
    return np.array(positions, dtype=np.int64)


class OnGrid:
    """A `PlaceCoder` that rounds means to the grid, and leaves the coding to another one."""

    def __init__(self, code: PlaceCoder, agree: Agreement) -> None:
        self._code, self._agree = code, agree

    def __call__(self, places: Places, mean: Tensor, scale: Tensor) -> Tensor:
        """Code the places around their means on the grid."""
        return self._code(places, self.settle(mean), scale)

    def settle(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Return ``values``, in quantisation steps, on the grid."""
        agreed = self._agree((values * GRID).flatten(1)).view(values.shape)
        return torch.empty_like(values).copy_(agreed).mul_(1 / GRID)


class PortableTables:
    """The distributions of the symbols of y, the same on every machine."""

    def __init__(self, distribution: Distribution, agree: Agreement) -> None:
        self.cdfs = portable_cdfs(distribution)
        self._agree = agree
        self._last = distribution.count - 1
        self._lowest = math.log(distribution.lowest)
        self._per_log = self._last / (math.log(distribution.highest) - self._lowest)
        # The nearest scale in logarithm, or, as in CompressAI, the next larger one.
        self._ahead = 0.0 if distribution.nearest else 0.5

    def indexes(self, scale: Float[Tensor, "b n"]) -> Tensor:
        """Return, for each scale, the index of its distribution (int32)."""
        place = scale.clamp(min=0.01).log().sub_(self._lowest).mul_(self._per_log)
        agreed = self._agree(place.add_(self._ahead).clamp_(0, self._last))
        # After a wrong symbol values may be NaN, which the coder would use as an index.
        return agreed.clamp(0, self._last).int()


@cache
def portable_cdfs(distribution: Distribution) -> Cdfs:
    """Return the quantised distributions of all scales that have one.

    None of their probabilities lies near a rounding boundary of the coder's 16 bits, which a test
    checks; so they need no agreement.
    """
    cdfs, offsets = [], []
    for scale, centre in portable_scales(distribution):
        cdfs.append(_cdf(torch.cat(symbol_counts(distribution, scale, centre)).round()))
        offsets.append(-centre)
    return cdfs, [len(row) for row in cdfs], offsets


def portable_scales(distribution: Distribution) -> list[tuple[float, int]]:
    """Return the scales that have a table, and each one's largest symbol."""
    low = math.log(distribution.lowest)
    step = (math.log(distribution.highest) - low) / (distribution.count - 1)
    scales = [math.exp(low + i * step) for i in range(distribution.count)]
    return [(scale, math.ceil(scale * distribution.reach)) for scale in scales]


def symbol_counts(
    distribution: Distribution, scale: float, centre: int
) -> tuple[Float[Tensor, " n"], Float[Tensor, " 1"]]:
    """Return the share of the coder's 2¹⁶ of each symbol within ``centre`` of 0, and of all beyond.

    The shares are not rounded.
    """
    steps = torch.arange(-centre, centre + 1, dtype=torch.float64, device="cpu").abs()
    beyond, before = (distribution.tail((steps + half) / scale) for half in (0.5, -0.5))
    return (before - beyond) * 2**_PRECISION, 2 * beyond[:1] * 2**_PRECISION


def _cdf(counts: Tensor) -> list[int]:
    from compressai._CXX import pmf_to_quantized_cdf

    cdf: list[int] = pmf_to_quantized_cdf((counts / 2**_PRECISION).tolist(), _PRECISION)
    return cdf


def bottleneck_reach(prior: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the medians of CompressAI's entropy bottleneck, and its tables' steps to either side.

    Raises:
        CodingError: as `refuse_damaged_prior`.
    """
    lowest, median, highest = prior.quantiles[:, 0].detach().unbind(1)
    below, above = ((side.ceil().clamp(min=0)) for side in (median - lowest, highest - median))
    refuse_damaged_prior(prior, below + above + 1)
    return median, below, above


class PriorCoder:
    """Codes z with one table for each of its channels.

    Args:
        medians: values from which symbols count whole steps, (N,).
        lowest: each channel's first symbol.
        lengths: number of symbols in each channel's table.
        counts: share of the coder's 2¹⁶ of each symbol, and in the last column of all others.
    """

    def __init__(
        self,
        medians: Float[Tensor, " n"],
        lowest: Tensor,
        lengths: Tensor,
        counts: Int64[Tensor, "n l"],
    ) -> None:
        self._medians = medians
        cdfs = [
            _cdf(torch.cat((row[:n], row[-1:])))
            for row, n in zip(counts.cpu(), lengths.tolist(), strict=True)
        ]
        self.cdfs: Cdfs = (cdfs, [len(row) for row in cdfs], lowest.int().tolist())

    @classmethod
    def of_bottleneck(cls, prior: Any, agree: Agreement) -> PriorCoder:
        """Return the coder of CompressAI's entropy bottleneck, with counts agreed on in float64."""
        median, below, above = bottleneck_reach(prior)
        start = (median - below)[:, None, None]
        length = (below + above + 1).long()
        samples = start + torch.arange(int(length.max()), device=start.device)
        pmf, lower, _ = prior._likelihood(samples, stop_gradient=True)
        last = prior._logits_cumulative((median + above + 0.5)[:, None, None], stop_gradient=True)
        tail = torch.sigmoid(lower[:, 0, :1]) + torch.sigmoid(-last[:, 0])
        counts = agree(torch.cat((pmf[:, 0], tail), 1).flatten()[None] * 2**_PRECISION)
        return cls(median, -below, length, counts.view(len(length), -1))

    def symbols(self, z: Float[Tensor, "b n p q"]) -> Tensor:
        """Return symbols, whole steps from the medians (int32).

        Raises:
            CodingError: a symbol is not finite, or too large for the entropy coder.
        """
        symbols: Tensor = (z - self._medians[:, None, None]).round()
        refuse_large_symbols("z", symbols.abs().max())
        return symbols.int()

    def values(self, symbols: Tensor) -> Float[Tensor, "b n p q"]:
        """Return ẑ from its symbols."""
        values: Tensor = symbols + self._medians[:, None, None]
        return values

    def encode(self, symbols: Tensor) -> list[bytes]:
        """Write one stream per image."""
        indexes = self._indexes(symbols.shape[2:])
        with section("entropy_coding"):
            return [write_stream(image.flatten(), indexes, self.cdfs) for image in symbols.cpu()]

    def decode(self, strings: Sequence[bytes], shape: Sequence[int]) -> Tensor:
        """Read the symbols (B, N, p, q) of one stream per image.

        Raises:
            CodingError: a string is not a rANS stream.
        """
        from compressai.ans import RansDecoder

        indexes = self._indexes(shape)
        with section("entropy_coding"):
            decoded = []
            for string in strings:
                decode = partial(
                    RansDecoder().decode_with_indexes, guard_stream(string, len(indexes))
                )
                decoded.append(read_symbols(decode, indexes, self.cdfs))
        symbols = torch.stack(decoded).to(self._medians.device)
        return symbols.view(len(strings), len(self._medians), *shape)

    def _indexes(self, shape: Sequence[int]) -> Int32[Tensor, " n"]:
        channels = torch.arange(len(self._medians), dtype=torch.int32, device="cpu")
        return channels.repeat_interleave(math.prod(shape))


class PortablePath(NamedTuple):
    """Everything that writes or reads one portable stream.

    Attributes:
        agree: rounds values in the same way for encoder and decoder.
        prior: codes z.
        tables: the distributions of the symbols of y.
    """

    agree: Agreement
    prior: PriorCoder
    tables: PortableTables

    def coder(self, code: PlaceCoder, gain: Float[Tensor, "#b m 1 1"] | None) -> Coder:
        """Return the coder of an entropy model, with all values on the grid."""
        if gain is not None:
            steps = self.agree((gain.double() * _GAIN_GRID).flatten(1)).clamp(min=1)
            gain = (steps / _GAIN_GRID).view(gain.shape)
        on_grid = OnGrid(code, self.agree)
        return Coder(on_grid, gain, on_grid.settle)

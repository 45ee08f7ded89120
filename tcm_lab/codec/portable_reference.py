"""Portable streams of CompressAI's own models, whose classes are not changed.

These models code through the methods of CompressAI's entropy models. While a stream is written or
read, other methods take their place: they agree on all values, which are computed in float64.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any
from unittest.mock import patch
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tcm_lab._utils.locks import SharedLock
from tcm_lab.codec.coding import (
    CodingError,
    SymbolDecoder,
    SymbolEncoder,
    refuse_other_symbols,
)
from tcm_lab.codec.distributions import SCALE_TABLES
from tcm_lab.codec.entropy_models import Channels
from tcm_lab.codec.portable import Agreement, OnGrid, PortableTables, PriorCoder, float64

#: Transforms on which no probability depends.
_APART = {"g_a", "h_a", "g_s"}
#: One lock for each living model.
_LOCKS: WeakKeyDictionary[nn.Module, SharedLock] = WeakKeyDictionary()


class PortableReference:
    """Codes portably with a model of CompressAI in evaluation mode.

    Raises:
        CodingError: the model codes one position after another, without its entropy model's
            methods.
    """

    def __init__(self, model: nn.Module) -> None:
        serial = [type(m).__name__ for m in model.modules() if "RasterScan" in type(m).__name__]
        if serial or hasattr(model, "context_prediction"):
            raise CodingError(
                f"{type(model).__name__} codes one position after another, which a portable "
                "stream does not cover; use a model without a serial context, such as "
                "compressai/mbt2018-mean or compressai/elic2022-official"
            )
        self._model: Any = model
        # Coding replaces the model's methods, so one coder at a time may use it.
        self._lock = _LOCKS.setdefault(model, SharedLock())

    @torch.no_grad()
    def compress(self, x: Float[Tensor, "b 3 h w"]) -> dict[str, Any]:
        """Code images (B, 3, H, W), padded as the model needs; ``decompress(**coded)`` undoes it.

        Raises:
            CodingError: a value is not finite, or too large for the entropy coder.
        """
        agree = Agreement(len(x))
        with self._lock.alone(), _agreeing(self._model, agree, encoding=True) as coders:
            coded = self._model.compress(x)
        return {
            "strings": [*coded["strings"], coders.agree.lists()],
            "shape": coded["shape"],
            "checksum": coders.checksum(),
        }

    @torch.no_grad()
    def decompress(
        self, strings: Sequence[Sequence[bytes]], shape: Any, checksum: int | None = None
    ) -> Mapping[str, Tensor]:
        """Decode the output of ``compress`` to ``x_hat`` (B, 3, H, W).

        Raises:
            CodingError: the bytes are not a stream, or float64 results differ by more than allowed.
        """
        *streams, decisions = strings
        agree = Agreement(len(decisions), decisions)
        with self._lock.alone(), _agreeing(self._model, agree, encoding=False) as coders:
            decoded: Mapping[str, Tensor] = self._model.decompress([*map(list, streams)], shape)
        if checksum is not None and coders.checksum() != checksum:
            refuse_other_symbols(type(self._model).__name__, portable=True)
        return decoded


class _Coders:
    """Replacements for the methods of a model's entropy models.

    While ``encoding``, decoding returns what was just written.
    """

    def __init__(self, agree: Agreement, *, encoding: bool) -> None:
        self.agree = agree
        self._encoding = encoding
        self._tables = PortableTables(SCALE_TABLES["compressai"], agree)
        self._y_hat = torch.zeros(0)
        self._checksum = 0

    def checksum(self) -> int:
        """Return a CRC-32 over all symbols and everything agreed on."""
        return self.agree.checksum(self._checksum)

    def methods(self, module: nn.Module) -> dict[str, Callable[..., Any]]:
        """Return replacements for the coding methods of ``module``, if it is an entropy model."""
        kind = type(module).__name__
        if kind == "EntropyBottleneck":
            prior = PriorCoder.of_bottleneck(module, self.agree)
            return {
                "compress": lambda z: prior.encode(prior.symbols(z)),
                "decompress": lambda strings, shape: prior.values(prior.decode(strings, shape)),
            }
        if kind == "GaussianConditional":
            # Scales are passed in place of their indexes, until the symbols are coded.
            return {
                "build_indexes": lambda scales: scales,
                "compress": self._compress,
                "decompress": self._decompress,
            }
        return {}

    def _compress(self, y: Tensor, scales: Tensor, means: Tensor | None = None) -> list[bytes]:
        encoder = SymbolEncoder(y, self._tables)
        self._y_hat = self._code(encoder, scales, means)
        return encoder.strings()

    def _decompress(
        self,
        strings: Sequence[bytes],
        scales: Tensor,
        dtype: torch.dtype = torch.float64,
        means: Tensor | None = None,
    ) -> Tensor:
        if self._encoding:
            return self._y_hat
        return self._code(SymbolDecoder(strings, scales[0].numel(), self._tables), scales, means)

    def _code(
        self, coder: SymbolEncoder | SymbolDecoder, scales: Tensor, means: Tensor | None
    ) -> Tensor:
        whole = Channels(0, scales.shape[1])
        if means is None:
            y_hat = coder(whole, torch.zeros_like(scales), scales)
        else:
            y_hat = OnGrid(coder, self.agree)(whole, means, scales)
        self._checksum = zlib.crc32(struct.pack("<I", coder.checksum()), self._checksum)
        return y_hat


@contextmanager
def _agreeing(model: nn.Module, agree: Agreement, *, encoding: bool) -> Iterator[_Coders]:
    """Make a model code portably inside the ``with`` block, in float64 where it matters."""
    tensors = chain(model.named_parameters(), model.named_buffers())
    coders = _Coders(agree, encoding=encoding)
    with ExitStack() as stack:
        stack.enter_context(
            float64(tensor for name, tensor in tensors if _APART.isdisjoint(name.split(".")))
        )
        for module in model.modules():
            for name, method in coders.methods(module).items():
                stack.enter_context(patch.object(module, name, method))
            own = next(module.parameters(recurse=False), None)
            if own is not None:
                cast = partial(_cast_inputs, own.dtype)
                stack.enter_context(module.register_forward_pre_hook(cast))
        yield coders


def _cast_inputs(dtype: torch.dtype, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Cast a layer's inputs to the dtype of its weights."""
    return tuple(
        value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for value in inputs
    )

"""Different arithmetics on one machine, in place of other machines."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from tcm_lab.codec import portable
from tcm_lab.codec.portable import Agreement

Arithmetic = Callable[[nn.Module], AbstractContextManager[None]]


@contextmanager
def setting(read: Callable[[], Any], write: Callable[[Any], None], value: Any) -> Iterator[None]:
    """Compute with a changed torch setting."""
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


def threads(count: int) -> AbstractContextManager[None]:
    """Compute with ``count`` threads."""
    return setting(torch.get_num_threads, torch.set_num_threads, count)


@contextmanager
def without_onednn(_: nn.Module) -> Iterator[None]:
    """Compute with torch's own kernels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about TF32, which is not requested
        with torch.backends.mkldnn.flags(enabled=False):
            yield


@contextmanager
def channels_first(codec: nn.Module) -> Iterator[None]:
    """Compute with weights and maps in channels-first memory layout."""
    codec.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stub lacks it
    try:
        yield
    finally:
        codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it


def coarse_products(_: nn.Module) -> AbstractContextManager[None]:
    """Allow float32 matrix products in bfloat16 if the processor supports it."""
    read, write = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    return setting(read, write, "medium")


@contextmanager
def another_kernel(_: nn.Module) -> Iterator[None]:
    """Sum convolutions and linear layers in reverse order."""

    def conv2d(
        x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1,
    ) -> Tensor:  # fmt: skip
        if groups > 1:
            return conv(x, weight, bias, stride, padding, dilation, groups)
        (p, q), (s, t), (d, e) = _pair(padding), _pair(stride), _pair(dilation)
        sides = (
            (x.shape[2] + 2 * p - d * (weight.shape[2] - 1) - 1) // s + 1,
            (x.shape[3] + 2 * q - e * (weight.shape[3] - 1) - 1) // t + 1,
        )
        columns = F.unfold(x, weight.shape[2:], (d, e), (p, q), (s, t)).flip(1)
        out = (weight.flatten(1).flip(1) @ columns).unflatten(2, sides)
        return out if bias is None else out + bias[:, None, None]

    def linear_from_the_end(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        out = x.flip(-1) @ weight.flip(-1).T
        return out if bias is None else out + bias

    conv, linear = F.conv2d, F.linear
    F.conv2d, F.linear = conv2d, linear_from_the_end
    try:
        yield
    finally:
        F.conv2d, F.linear = conv, linear


ARITHMETICS: dict[str, Arithmetic] = {
    "one-thread": lambda _: threads(1),
    "two-threads": lambda _: threads(2),
    "without-onednn": without_onednn,
    "channels-first": channels_first,
    "coarse-products": coarse_products,
    "another-kernel": another_kernel,
}


@contextmanager
def noise(margins: float) -> Iterator[None]:
    """Shift all agreed values by exactly ``margins`` margins, up or down at random."""
    generator = torch.Generator().manual_seed(1)
    agree = Agreement.__call__

    def noisy(self: Agreement, values: Tensor) -> Tensor:
        signs = torch.rand(values.shape, generator=generator, dtype=values.dtype) < 0.5
        return agree(self, values + portable.MARGIN * margins * (2.0 * signs - 1))

    Agreement.__call__ = noisy  # type: ignore[method-assign]  # noise of the test
    try:
        yield
    finally:
        Agreement.__call__ = agree  # type: ignore[method-assign]  # noise of the test

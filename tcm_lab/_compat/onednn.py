"""Keeps oneDNN's broken CPU gradient of strided 1x1 convolutions out of codecs and training.

For channels-last images with fewer channels than a SIMD block, that kernel writes past its
workspace: wrong gradients, or a crash (https://github.com/uxlfoundation/oneDNN/issues/6035, in
the oneDNN of torch 2.13). The skip convolution of a codec's first layer is such a one. Our own
layers use `StridedPointwise`; training replaces those of other codecs while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn

_SIMD_BLOCK = 16


class StridedPointwise(nn.Conv2d):
    """A 1x1 convolution of stride 2, computed as every second position and then stride 1."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 1)

    def forward(self, input: Tensor) -> Tensor:
        """Transform (B, C_in, H, W) to (B, C_out, ⌈H/2⌉, ⌈W/2⌉)."""
        return super().forward(input[:, :, ::2, ::2])


@contextmanager
def safe_strided_convolutions(codec: nn.Module) -> Iterator[None]:
    """Replace a strided 1x1 convolution on few channels by subsampling and an unstrided one."""
    affected = [module for module in codec.modules() if _is_affected(module)]
    for module in affected:
        module.forward = _subsampled(module)
    try:
        yield
    finally:
        for module in affected:
            del module.forward


def _is_affected(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.padding == (0, 0)
        and module.in_channels // module.groups < _SIMD_BLOCK
    )


def _subsampled(module: nn.Module) -> Callable[[Tensor], Tensor]:
    assert isinstance(module, nn.Conv2d)
    down, right = module.stride

    def forward(x: Tensor) -> Tensor:
        kept = x[:, :, ::down, ::right]
        return F.conv2d(kept, module.weight, module.bias, groups=module.groups)

    return forward

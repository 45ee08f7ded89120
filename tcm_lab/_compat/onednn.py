"""Keeps oneDNN's broken CPU gradient of strided 1x1 convolutions out of codecs and training.

For channels-last images with fewer channels than a SIMD block, that kernel writes past its
workspace: wrong gradients, or a crash (https://github.com/uxlfoundation/oneDNN/issues/6035, in
the oneDNN of torch 2.13). The skip convolution of a codec's first layer is affected. Our own layers
use `StridedPointwise` instead; layers of other codecs do so during training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn

_SIMD_BLOCK = 16


class StridedPointwise(nn.Conv2d):
    """A strided 1x1 convolution, computed as a subsampling and an unstrided convolution."""

    def forward(self, input: Tensor) -> Tensor:
        """Transform (B, C_in, H, W) to (B, C_out, ⌈H/stride⌉, ⌈W/stride⌉)."""
        down, right = self.stride
        return F.conv2d(input[:, :, ::down, ::right], self.weight, self.bias, groups=self.groups)


@contextmanager
def safe_strided_convolutions(codec: nn.Module) -> Iterator[None]:
    """Compute strided 1x1 convolutions on few channels as `StridedPointwise` does."""
    affected = [module for module in codec.modules() if _is_affected(module)]
    for module in affected:
        module.__class__ = StridedPointwise
    try:
        yield
    finally:
        for module in affected:
            module.__class__ = nn.Conv2d


def _is_affected(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.padding in ((0, 0), "valid")
        and module.in_channels // module.groups < _SIMD_BLOCK
    )

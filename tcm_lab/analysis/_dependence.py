"""What a position can depend on if attention is left out: the convolutions' own receptive field.

The model is copied with every kernel made uniform and positive, every nonlinearity and
normalisation passed by, and every attention made to see its own position alone. The gradient of the
copy is then positive exactly where a path of convolutions leads, and symmetric around the middle of
the field, whatever the strides, paddings and sub-pixel steps on the way.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from tcm_lab.blocks import WindowAttention

Run = Callable[[nn.Module, Tensor], Tensor]
"""Takes a model and an input (1, C, H, W) and returns a feature map (1, M, h, w)."""

# So small that a tanh or sigmoid between layers is straight, yet a product of two is not zero.
_LEVEL = 1e-6
_PASSED_BY = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.BatchNorm2d,
    nn.GELU,
    nn.ReLU,
    nn.LeakyReLU,
    nn.SiLU,
    nn.Softplus,
    nn.Tanh,
)
_PASSED_BY_NAME = ("GDN", "GDN1")  # CompressAI's, or a user's


def convolution_field(
    model: nn.Module, run: Run, x: Tensor, position: tuple[int, int]
) -> tuple[NDArray[np.bool_], tuple[float, float]]:
    """Return where the convolutions alone lead from ``position`` of ``run``'s map to its input.

    Args:
        model: handed to ``run``, as a copy.
        run: what is looked into.
        x: an input (1, C, H, W); only its shape and device matter.
        position: (row, column) of the map.

    Returns:
        Whether the position depends on each input position, (H, W); and the middle of that field,
        (row, column) to half a position.
    """
    linear = _uniform_and_linear(model)
    probe = torch.full_like(x, _LEVEL, dtype=torch.float64).requires_grad_()
    out = run(linear, probe)[0, :, position[0], position[1]].sum()
    (gradient,) = torch.autograd.grad(out, probe)
    weight = gradient[0].sum(0).cpu().numpy()
    core = weight
    if max(weight[[0, -1]].max(), weight[:, [0, -1]].max()) > 0:
        # Its flanks are cut off by the image's border, on one side more than on the other.
        core = np.where(weight >= weight.max() / 2, weight, 0)
    rows, columns = (
        float((core.sum(other) * np.arange(length)).sum() / core.sum())
        for other, length in zip((1, 0), weight.shape, strict=True)
    )
    return weight > 0, (round(2 * rows) / 2, round(2 * columns) / 2)


def _uniform_and_linear(model: nn.Module) -> nn.Module:
    """Return a float64 copy of ``model`` whose gradients are positive along every convolution."""
    linear = copy.deepcopy(model).double().eval()
    for module in linear.modules():
        if isinstance(module, _ConvNd | nn.Linear):
            fan_in = module.weight[0].numel()
            nn.init.constant_(module.weight, 1 / fan_in)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if (
            isinstance(module, (WindowAttention, *_PASSED_BY))
            or type(module).__name__ in _PASSED_BY_NAME
        ):
            module.register_forward_hook(_pass)
    return linear


def _pass(module: nn.Module, args: Any, output: Any) -> Any:
    del module, output
    return args[0]

"""Stages as linear maps between growing patches: by their shortcuts, or by the main path itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcm_lab._compat.torchvision import import_compressai
from tcm_lab.blocks import ResamplerConfig
from tcm_lab.blocks.resamplers import (
    Bottlenecks,
    BottlenecksConfig,
    ConvResamplerConfig,
    NoResamplerConfig,
    ResidualResamplerConfig,
)
from tcm_lab.codec import Codec
from tcm_lab.codec.transforms import Stage, Transform
from tcm_lab.training.components import as_rows, components, least_squares

_MARGIN = 6.0  # standard deviations between a feature's mean and the bend of its activation
_BEND_OF_GELU = 3.0  # above, it is linear to 0.4 %; leaky ReLUs bend at 0
_RIDGE = 1e-6  # the latent, and the image restored from it, are linear in the crops
_GAMMA = 1e-3  # of GDN where its input has a variance of 1 or less: nearly the identity


def stages_of(transform: Transform) -> list[Stage]:
    """Return the stages of a transform."""
    return cast("list[Stage]", list(transform.stages))


def zero(layers: Iterable[nn.Module]) -> None:
    """Set the parameters of layers to zero."""
    for layer in layers:
        for parameter in layer.parameters(recurse=False):
            parameter.zero_()


def set_map(layer: Any, weight: Tensor, bias: Tensor) -> None:
    """Set a layer's weight, in any shape of as many numbers, and its bias."""
    layer.weight.copy_(weight.view(layer.weight.shape))
    layer.bias.copy_(bias)


@torch.no_grad()
def fit_shortcuts(codec: Codec, crops: Tensor) -> None:
    """Set the stages' shortcuts to principal components of increasingly large patches.

    In the analysis, each shortcut becomes the components of its input's patches. In the synthesis,
    each is the least-squares fit from its input to the components at its own scale.

    Args:
        codec: changed in place.
        crops: (B, 3, H, W) in [0, 1].
    """
    x = crops
    for stage in stages_of(codec.g_a):
        if stage.shortcut is not None:
            patches = as_rows(F.pixel_unshuffle(x, stage.shortcut.stride[0]))
            basis, mean = _normalised_components(patches, stage.shortcut.out_channels)
            set_map(stage.shortcut, basis, -(basis @ mean))
        x = stage(x)
    if all(stage.shortcut is None for stage in stages_of(codec.g_s)):
        return
    x = input_of_synthesis(codec, codec.g_a(crops))
    scale = codec.config.stride[0]
    for stage in stages_of(codec.g_s):
        if stage.shortcut is not None:
            factor, channels = stage.shortcut.stride[0], stage.shortcut.out_channels
            scale //= factor
            target = _components_at(crops, scale, channels)
            weight, bias = _to_target(x, target, factor)
            set_map(stage.shortcut, weight, bias)
        x = stage(x)


def carries_linear_map(codec: nn.Module) -> TypeGuard[Codec]:
    """Return whether a codec has no shortcuts and its main path can take their place."""
    if not isinstance(codec, Codec) or codec.g_a.linear_path is not None:
        return False
    for transform in (codec.config.g_a, codec.config.g_s):
        configs = [stage.resample for stage in transform.stages]
        changing = [config for config in configs if not isinstance(config, NoResamplerConfig)]
        if not changing or not all(map(_can_carry, changing)):
            return False
    return True


@torch.no_grad()
def fit_main_path(codec: Codec, crops: Tensor, y: Tensor, x_hat: Tensor) -> None:
    """Set the resamplers so that the stages compute a linear transform of the image.

    In the analysis, each becomes the principal components of its input's patches, the last one the
    least-squares fit to the latent. In the synthesis, each becomes the fit to the restored image's
    components at its own scale, the last one to that image. Activations are moved into their linear
    range. Channels beyond the number of components keep their weights, and nothing reads them at
    first.

    Args:
        codec: one that `carries_linear_map`, with its residual branches at zero; changed in place.
        crops: (B, 3, H, W) in [0, 1].
        y: the crops' linear latent, (B, M, h, w), in steps.
        x_hat: the crops restored from it by a linear map, (B, 3, H, W).
    """
    own_y = _fit_analysis(codec, crops, y)
    _fit_synthesis(codec, input_of_synthesis(codec, own_y), x_hat)


def _fit_analysis(codec: Codec, x: Tensor, y: Tensor) -> Tensor:
    """Fit the stages to a latent of the image x, and return theirs."""
    read, changing = x.shape[1], _changing(codec.g_a)
    for stage, config in zip(stages_of(codec.g_a), codec.config.g_a.stages, strict=True):
        if stage in changing:
            factor = config.resample.factor
            patches = as_rows(F.pixel_unshuffle(x[:, :read], factor))
            if stage is changing[-1]:
                solution, bias = least_squares(patches, as_rows(y), _RIDGE)
                weight = solution.T
            else:
                width = min(config.width or 0, patches.shape[1])
                weight, mean = _normalised_components(patches, width)
                bias = -(weight @ mean)
            _carry(stage.resample, weight.reshape(len(bias), read, factor, factor), bias, x)
            read = len(bias)
        x = stage(x)
    return x


def _fit_synthesis(codec: Codec, x: Tensor, x_hat: Tensor) -> None:
    """Fit the stages, whose input is x, to an image."""
    read, scale, changing = x.shape[1], codec.config.stride[0], _changing(codec.g_s)
    for stage, config in zip(stages_of(codec.g_s), codec.config.g_s.stages, strict=True):
        if stage in changing:
            factor, target = config.resample.factor, x_hat
            scale //= factor
            if stage is not changing[-1]:
                width = min(config.width or 0, x_hat.shape[1] * scale**2)
                target = _components_at(x_hat, scale, width)
            weight, bias = _to_target(x[:, :read], target, factor, _RIDGE)
            weight = weight.view(read, len(bias), factor, factor).transpose(0, 1)
            _carry(stage.resample, weight, bias, x)
            read = len(bias)
        x = stage(x)


def _changing(transform: Transform) -> list[Stage]:
    """Return the stages that change channels or size."""
    return [s for s in stages_of(transform) if not isinstance(s.resample, nn.Identity)]


def _can_carry(config: ResamplerConfig) -> bool:
    """Return whether a resampler can become any linear map of patches.

    What others build, in subclasses of their own as well, is not known.
    """
    if type(config) is ConvResamplerConfig:
        return config.kernel >= config.stride and config.activation in ("none", "gdn")
    if type(config) is BottlenecksConfig:
        return config.kernel >= config.factor
    return type(config) is ResidualResamplerConfig


def input_of_synthesis(codec: Codec, y: Tensor) -> Tensor:
    """Return a latent (B, M, h, w) as the synthesis takes it: a normalised one in its unit."""
    return y if codec.y_unit is None else y / codec.y_unit[:, None, None]


def _normalised_components(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return components (count, D) of rows (N, D), of mean variance 1, and the rows' mean (D,)."""
    basis, variances, mean = components(rows, count)
    return basis / variances[:count].mean().sqrt(), mean


def _components_at(crops: Tensor, scale: int, count: int) -> Tensor:
    """Return the normalised components of patches of ``scale`` x ``scale``, (B, count, h, w)."""
    patches = F.pixel_unshuffle(crops, scale)
    basis, mean = _normalised_components(as_rows(patches), count)
    return F.conv2d(patches, basis[:, :, None, None], -(basis @ mean))


def _to_target(
    x: Tensor, target: Tensor, factor: int, ridge: float = 1e-3
) -> tuple[Tensor, Tensor]:
    """Fit patches of ``target`` to the positions of ``x``: weights (C, D factor²) and bias (D,)."""
    weight, bias = least_squares(as_rows(x), as_rows(F.pixel_unshuffle(target, factor)), ridge)
    return weight, bias.view(target.shape[1], -1).mean(1)


def _carry(resampler: Any, weight: Tensor, bias: Tensor, x: Tensor) -> None:
    """Set the first channels of a resampler's output to a map of its input's first channels.

    Args:
        resampler: built by a configuration that `_can_carry`; changed in place.
        weight: (C_out, C_in, f, f), where f is the factor by which it reduces or enlarges sides.
        bias: (C_out,).
        x: the resampler's input.
    """
    layers, carried = import_compressai().layers, len(bias)
    if isinstance(resampler, layers.ResidualBlockWithStride):
        _set_taps(resampler.conv1, weight, bias)
        before = resampler.conv1(x)[:, :carried]
        bend = _BEND_OF_GELU if isinstance(resampler.leaky_relu, nn.GELU) else 0.0
        shift = bend + _MARGIN * before.std((0, 2, 3)) - before.mean((0, 2, 3))
        resampler.conv1.bias[:carried] += shift
        _set_taps(resampler.conv2, torch.eye(carried).to(x)[:, :, None, None], -shift)
        _weaken(resampler.gdn, before)
        _zero_first(resampler.skip, carried)
    elif isinstance(resampler, layers.ResidualBlockUpsample):
        _set_taps(resampler.upsample[0], weight, bias)
        _zero_first(resampler.conv, carried)
    else:
        chain: Any = resampler.conv if isinstance(resampler, Bottlenecks) else resampler
        _set_taps(chain[0], weight, bias)
        if isinstance(chain[-1], layers.GDN):
            _weaken(chain[-1], chain[:-1](x)[:, :carried])


def _weaken(gdn: Any, before: Tensor) -> None:
    """Make GDN nearly the identity on its first inputs, which are given."""
    variances = before.var((0, 2, 3))
    gamma = torch.zeros_like(gdn.gamma)
    gamma[: len(variances), : len(variances)] = torch.diag(_GAMMA / variances.clamp(min=1))
    gdn.gamma[: len(variances)] = gdn.gamma_reparam.init(gamma)[: len(variances)]


def _set_taps(convolution: nn.Conv2d | nn.ConvTranspose2d, weight: Tensor, bias: Tensor) -> None:
    """Set the first outputs of a convolution to a map of its first inputs, given as in `_carry`.

    A convolution before a ``PixelShuffle`` has f² outputs for each channel of the map.
    """
    assert convolution.bias is not None
    factor, outputs = weight.shape[-1], convolution.weight
    if isinstance(convolution, nn.ConvTranspose2d):
        outputs = outputs.transpose(0, 1)
    elif convolution.stride[0] < factor:  # before a PixelShuffle
        weight = weight.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None, None]
        bias = bias.repeat_interleave(factor**2)
    count, read, size, _ = weight.shape
    patch = slice(int(convolution.padding[0]), int(convolution.padding[0]) + size)
    outputs[:count] = 0
    outputs[:count, :read, patch, patch] = weight
    convolution.bias[:count] = bias


def _zero_first(convolution: nn.Conv2d, count: int) -> None:
    """Set the first outputs of a convolution to zero."""
    assert convolution.bias is not None
    convolution.weight[:count] = 0
    convolution.bias[:count] = 0

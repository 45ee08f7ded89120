"""The energy of a position's Jacobian, and the field that its convolutions alone can reach.

The effective receptive field of a position is the energy of its Jacobian (Luo et al. 2016,
"Understanding the effective receptive field"), here of all its channels together:
s(p) = Σ_c Σ_m (∂y_m / ∂x_c(p))², which does not depend on the latent's scale or on the choice of a
channel. With random signs v of length M, E[Σ_c (∂ v·y / ∂x_c(p))²] = s(p): each backward pass is an
unbiased sample of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from tcm_lab._utils.environment import environment
from tcm_lab._utils.progress import OnDone
from tcm_lab.analysis._probe import Images, attention_inputs, image_names, iterate_images
from tcm_lab.analysis.erf_map import ErfMap, ErfOptions, WindowGrid, mean_erf
from tcm_lab.blocks import WindowAttention
from tcm_lab.blocks.wavelet import HaarLinear
from tcm_lab.codec import CodecAdapter
from tcm_lab.codec.adapter import evaluating
from tcm_lab.codec.config import Shortcut
from tcm_lab.complexity.counters.base import NORMALISATIONS
from tcm_lab.data import ImageSet
from tcm_lab.errors import LabError

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Dependence:
    """A map whose positions are differentiated with respect to another map.

    Attributes:
        of: name of the map that the position belongs to.
        wrt: name of the map with respect to which it is differentiated.
        start: computes the map ``wrt``, (1, C, H, W), from an image.
        run: computes the map ``of``, (1, M, h, w), from the map ``wrt`` in the given model.
        multiple: the sides of images are rounded down to multiples of this.
        same_grid: whether both maps have the same positions, so that a position is its own centre
            regardless of what it depends on.
        end_to_end: whether the map ``of`` is that of a whole transform, lies behind one, or is that
            of its linear shortcut, so that it includes the shortcut, if the codec has one.
    """

    of: str
    wrt: Literal["image", "y", "y_hat"]
    start: Callable[[Tensor], Tensor]
    run: Callable[[nn.Module, Tensor], Tensor]
    multiple: int
    same_grid: bool = False
    end_to_end: bool = True


def jacobian_maps(
    model: nn.Module,
    dependence: Dependence,
    images: Images,
    options: ErfOptions,
    on_image: OnDone | None = None,
) -> tuple[ErfMap, ...]:
    """Return the effective receptive field on each image's centre crop.

    ``layer`` and ``rate`` of the options are already part of ``dependence``.

    Raises:
        LabError: an image is too small, the position or channel is out of range, or the position
            depends on nothing.
    """
    names, adapter = image_names(images), CodecAdapter(model)
    maps: list[ErfMap] = []
    with evaluating(model):
        crops = _common_crops(images, model, dependence.multiple, options.side)
        with torch.no_grad():
            pairs = [(x.shape[-2], dependence.start(x)) for x in crops]
        starts = [start for _, start in pairs]
        pitch = pairs[0][0] / starts[0].shape[-2]  # image pixels per position
        if options.method == "single-channel" and options.channel is None:
            strongest = _strongest_channel(model, dependence, starts)
            options = options.model_copy(update={"channel": strongest})
        position, within, centre = convolution_field(model, dependence, starts[0], options.at)
        generator = torch.Generator().manual_seed(options.seed)
        for name, start in zip(names, starts, strict=True):
            samples, probes, grids = _energies(
                model, dependence, start, options, position, generator
            )
            scores, standard_error = _shares(samples, dependence)
            maps.append(
                ErfMap(
                    model=adapter.name,
                    of=dependence.of,
                    wrt=dependence.wrt,
                    method=options.method,
                    channel=options.channel if options.method == "single-channel" else None,
                    probes=probes,
                    seed=options.seed,
                    images=(name,),
                    position=position,
                    centre=position if dependence.same_grid else centre,
                    pitch_px=pitch,
                    scores=scores,
                    standard_error=standard_error,
                    convolutions=within,
                    grids=grids,
                    environment=environment(adapter.device),
                )
            )
            if on_image is not None:
                on_image(len(maps), len(starts))
    shortcut = "none" if adapter.config is None else adapter.config.shortcut
    if shortcut == "none" or dependence.wrt == "y":  # the entropy model has no shortcut
        return tuple(maps)
    # The map of whole patches is added last; the others have steps beside every stage, too.
    if shortcut == "patch" and not dependence.end_to_end:
        return tuple(maps)
    whole = dependence.end_to_end or shortcut == "wavelet"
    return _centred_by_energy(maps, shortcut if whole else "none")


def _centred_by_energy(maps: Sequence[ErfMap], shortcut: Shortcut) -> tuple[ErfMap, ...]:
    """Return maps with linear shortcuts in them, centred at their energy's centre of mass.

    A shortcut's block begins at the centre of the convolutions' field, and holds most of the
    energy. Its edges cannot be distinguished from those of windows, so there are no grids.
    """
    scores = mean_erf(maps).scores.astype(np.float64)
    mass = np.tensordot(np.indices(scores.shape), scores) / scores.sum()
    centre = tuple((np.round(2 * mass) / 2).tolist())
    update = {"centre": centre, "grids": (), "shortcut": shortcut}
    return tuple(erf.model_copy(update=update) for erf in maps)


def _common_crops(
    images: Images, model: nn.Module, multiple: int, side: int | None
) -> Iterator[Tensor]:
    """Yield each image's centre crop (1, 3, H, W), the largest common one in whole multiples."""
    sizes = (
        images.sizes
        if isinstance(images, ImageSet)
        else [x.shape[-2:] for x in iterate_images(images, model)]
    )
    height, width = (min(int(size[axis]) for size in sizes) for axis in (0, 1))
    if side is not None:
        height, width = min(height, side), min(width, side)
    if min(height, width) < multiple:
        raise LabError(
            f"images of {height}x{width} pixels are too small; "
            f"give images, or crops, of at least {multiple}x{multiple}"
        )
    height, width = height // multiple * multiple, width // multiple * multiple
    for x in iterate_images(images, model):
        top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
        yield x[..., top : top + height, left : left + width].contiguous()


def _energies(
    model: nn.Module,
    dependence: Dependence,
    start: Tensor,
    options: ErfOptions,
    position: tuple[int, int],
    generator: torch.Generator,
) -> tuple[_Floats, int, tuple[WindowGrid, ...]]:
    """Return samples (K, H, W) of one image's scores, the number of probes, and window grids."""
    x = start.clone().requires_grad_()
    attended: list[tuple[WindowGrid, Tensor]] = []

    def on_attention(name: str, module: WindowAttention, tokens: Tensor) -> None:
        pitch = x.shape[-2] / tokens.shape[1]
        side, offset = module.window_size * pitch, module.shift * pitch
        if tokens.requires_grad:
            grid = WindowGrid(layer=name, window_size=side, offset=offset, pitch=pitch)
            attended.append((grid, tokens))

    with torch.enable_grad(), attention_inputs(model, on_attention):
        values = dependence.run(model, x)[0, :, position[0], position[1]]

    def gradient(vector: Tensor) -> _Floats:
        image_gradient, *token_gradients = torch.autograd.grad(
            values,
            [x, *(tokens for _, tokens in attended)],
            vector.to(values),
            retain_graph=True,
            allow_unused=True,
        )
        # Attention that the position does not depend on is not between the two maps.
        attended[:] = [a for a, g in zip(attended, token_gradients, strict=True) if g is not None]
        if image_gradient is None:
            raise LabError(
                f"{dependence.of} does not depend on {dependence.wrt} by any differentiable path"
            )
        per_channel = image_gradient[0].double()
        energy = per_channel.square() if options.method == "frobenius" else per_channel.abs()
        summed: _Floats = energy.sum(0).cpu().numpy()
        return summed

    vectors, probes = _vectors(options, dependence.of, len(values), generator)
    samples = np.stack([gradient(vector) for vector in vectors])
    # The energy of all channels together is the score itself; each probe's is a sample of it.
    samples = samples if probes else samples.sum(0, keepdims=True)
    return samples, probes, tuple(grid for grid, _ in attended)


def _vectors(
    options: ErfOptions, of: str, channels: int, generator: torch.Generator
) -> tuple[Tensor, int]:
    """Return vectors (K, M) along which to differentiate, and the number with random signs."""
    every = torch.eye(channels)
    if options.method == "sum":
        return torch.ones(1, channels), 0
    if options.method == "single-channel":
        if options.channel is None or not 0 <= options.channel < channels:
            raise LabError(f"channel = {options.channel}: {of} has channels 0 to {channels - 1}")
        return every[options.channel, None], 0
    if options.probes is None or options.probes >= channels:
        return every, 0
    signs = torch.randint(0, 2, (options.probes, channels), generator=generator) * 2.0 - 1
    return signs, options.probes


def _shares(samples: _Floats, dependence: Dependence) -> tuple[_Floats, _Floats]:
    """Return shares (H, W) from samples (K, H, W) of the scores, and their standard error.

    A share is a ratio of two means over the same probes; its error is that of the residuals
    e_k − s·t_k, where t_k is the k-th sample's sum.
    """
    totals = samples.sum(axis=(1, 2))
    total = float(totals.mean())
    if not np.isfinite(total) or total <= 0:
        raise LabError(
            f"{dependence.of} has a gradient of {total} with respect to {dependence.wrt}: "
            "the position depends on nothing there, or the weights are not finite"
        )
    shares = samples.mean(axis=0) / total
    count = len(samples)
    if count == 1:
        return shares, np.zeros_like(shares)
    residuals = samples - shares * totals[:, None, None]
    spread = np.sqrt((residuals**2).sum(axis=0) / (count - 1))
    return shares, spread / total / np.sqrt(count)


@torch.no_grad()
def _strongest_channel(model: nn.Module, dependence: Dependence, starts: Sequence[Tensor]) -> int:
    """Return the channel that varies most over the images."""
    maps = [dependence.run(model, start)[0].flatten(1) for start in starts]
    energy = [values.var(1, correction=0) for values in maps]  # 0 for a single position
    return int(torch.stack(energy).sum(0).argmax())


# Small enough that tanh and sigmoid are linear there, yet a product of two is not zero.
_LEVEL = 1e-6
_ACTIVATIONS = (nn.GELU, nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.Softplus, nn.Tanh)
_SKIPPED = (*NORMALISATIONS, *_ACTIVATIONS, WindowAttention)
_SKIPPED_BY_NAME = ("GDN", "GDN1")  # CompressAI's, or a user's


def convolution_field(
    model: nn.Module, dependence: Dependence, start: Tensor, at: tuple[int, int] | None
) -> tuple[tuple[int, int], NDArray[np.bool_], tuple[float, float]]:
    """Return the field that a position of ``dependence``'s map reaches by convolutions alone.

    In a copy of the model, every kernel is uniform and positive, every nonlinearity and
    normalisation is skipped, and every attention sees only its own position. The gradient of the
    copy is then positive exactly at the positions that a path of convolutions reaches, and
    symmetric around the centre of the field, regardless of strides, paddings and sub-pixel steps.

    Args:
        model: left unchanged.
        dependence: computes the position's map from ``start``.
        start: an input (1, C, H, W); only its shape and device matter.
        at: (row, column) of the position; None is (h // 2, w // 2).

    Returns:
        The position; whether it depends on each input position, (H, W); and the centre of that
        field, (row, column) to half a position.

    Raises:
        LabError: the position is outside the map.
    """
    probe = torch.full_like(start, _LEVEL, dtype=torch.float64).requires_grad_()
    out = dependence.run(_uniform_and_linear(model), probe)
    height, width = out.shape[-2:]
    row, column = (height // 2, width // 2) if at is None else at
    if not (0 <= row < height and 0 <= column < width):
        raise LabError(f"at = {at} is outside {dependence.of}'s map of {height}x{width}")
    (gradient,) = torch.autograd.grad(out[0, :, row, column].sum(), probe)
    weight = gradient[0].sum(0).cpu().numpy()
    core = weight
    if max(weight[[0, -1]].max(), weight[:, [0, -1]].max()) > 0:
        # The image's border cuts off the flanks, more on one side than on the other.
        core = np.where(weight >= weight.max() / 2, weight, 0)
    # An empty field has no centre; the error is raised when its energy is measured.
    centre = np.tensordot(np.indices(core.shape), core) / (core.sum() or 1.0)
    rows, columns = (np.round(2 * centre) / 2).tolist()
    return (row, column), weight > 0, (rows, columns)


def _uniform_and_linear(model: nn.Module) -> nn.Module:
    """Return a float64 copy of ``model`` with positive gradients along every convolution."""
    linear = copy.deepcopy(model).double().eval()
    for module in linear.modules():
        if isinstance(module, _ConvNd | nn.Linear):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, HaarLinear):
            module.keep_means_()
        if isinstance(module, _SKIPPED) or type(module).__name__ in _SKIPPED_BY_NAME:
            module.register_forward_hook(lambda module, args, output: args[0])
    return linear

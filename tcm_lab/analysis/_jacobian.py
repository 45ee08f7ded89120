"""The energy of a position's Jacobian, channel by channel or by random signs.

The field of a position is the energy of its Jacobian (Luo et al. 2016, "Understanding the effective
receptive field"), here of all its channels together: s(p) = Σ_c Σ_m (∂y_m / ∂x_c(p))², which no
scaling of the latent and no choice of a channel can change. With random signs v of length M,
E[Σ_c (∂ v·y / ∂x_c(p))²] = s(p): each backward pass is an unbiased sample of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tcm_lab._utils.environment import environment
from tcm_lab._utils.progress import OnDone
from tcm_lab.analysis._dependence import Run, convolution_field
from tcm_lab.analysis._images import (
    Images,
    centre_crop,
    common_size,
    device_of,
    iterate_images,
    names_of,
)
from tcm_lab.analysis._probe import attention_inputs, evaluating, model_name
from tcm_lab.analysis.erf_map import METHODS, ErfMap, Method, WindowGrid
from tcm_lab.errors import LabError, one_of

_Found = tuple[NDArray[np.float64], NDArray[np.float64], int]


@dataclass(frozen=True)
class Field:
    """What is differentiated with respect to what.

    Attributes:
        of: name of the map that the position belongs to.
        wrt: name of the map that it is differentiated by.
        start: makes that map (1, C, H, W) from an image.
        run: leads from it to the position's map.
        pitch_px: image pixels per position of the start map.
        same_grid: whether both maps have the same positions, so that a position is its own centre,
            whatever else it depends on.
    """

    of: str
    wrt: Literal["image", "y", "y_hat"]
    start: Callable[[Tensor], Tensor]
    run: Run
    pitch_px: float
    same_grid: bool = False


def fields_of(
    model: nn.Module,
    field: Field,
    images: Images,
    *,
    method: Method = "frobenius",
    probes: int | None = 16,
    channel: int | None = None,
    seed: int = 0,
    at: tuple[int, int] | None = None,
    side: int | None = None,
    multiple: int = 1,
    on_image: OnDone | None = None,
) -> tuple[ErfMap, ...]:
    """Return the effective receptive field of ``field`` on each image.

    Args:
        model: the codec, or any module that ``field`` runs.
        field: what is differentiated.
        images: images; their common middle is taken.
        method: how channels are brought together.
        probes: random sign vectors; None, or as many as channels, differentiates every channel.
        channel: for ``single-channel``; None takes the one with the most energy.
        seed: of the probes.
        at: (row, column) of the position; None is the middle of its map.
        side: crop to at most so many pixels; None takes all that the images share.
        multiple: what crops are rounded down to.
        on_image: told how many images are done, of how many.

    Raises:
        LabError: an image is too small, the position or channel is not there, or it depends on
            nothing.
    """
    if method not in METHODS:
        raise LabError(f"method = {method!r} is unknown; write {one_of(METHODS)}")
    names = names_of(images)
    size = common_size(images, multiple, side)
    with evaluating(model):
        starts = [field.start(centre_crop(x, size)).detach() for x in iterate_images(images, model)]
        if method == "single-channel" and channel is None:
            channel = _strongest_channel(model, field, starts)
        generator = torch.Generator().manual_seed(seed)
        maps: list[_Found] = []
        for i, start in enumerate(starts):
            found, grids, position = _scores(
                model, field, start, method, probes, channel, generator, at
            )
            maps.append(found)
            if on_image is not None:
                on_image(i + 1, len(starts))
        within, centre = convolution_field(model, field.run, starts[0], position)
        if field.same_grid:
            centre = (float(position[0]), float(position[1]))
    return tuple(
        ErfMap(
            model=model_name(model),
            of=field.of,
            wrt=field.wrt,
            method=method,
            channel=channel if method == "single-channel" else None,
            probes=used,
            seed=seed,
            images=(name,),
            position=position,
            centre=centre,
            pitch_px=field.pitch_px,
            scores=scores,
            standard_error=error,
            convolutions=within,
            grids=grids,
            environment=environment(device_of(model)),
        )
        for name, (scores, error, used) in zip(names, maps, strict=True)
    )


def _scores(
    model: nn.Module,
    field: Field,
    start: Tensor,
    method: Method,
    probes: int | None,
    channel: int | None,
    generator: torch.Generator,
    at: tuple[int, int] | None,
) -> tuple[_Found, tuple[WindowGrid, ...], tuple[int, int]]:
    """Return one image's shares, their standard error and the probes used; grids; position."""
    x = start.clone().requires_grad_()
    attended: list[tuple[WindowGrid, Tensor]] = []

    def on_attention(name: str, module: Any, tokens: Tensor) -> None:
        pitch = x.shape[-2] / tokens.shape[1]
        grid = WindowGrid(
            layer=name,
            window_size=module.window_size * pitch,
            offset=module.shift * pitch,
            pitch=pitch,
        )
        if tokens.requires_grad:
            attended.append((grid, tokens))

    with torch.enable_grad(), attention_inputs(model, on_attention):
        out = field.run(model, x)
    height, width = out.shape[-2:]
    position = (height // 2, width // 2) if at is None else at
    if not (0 <= position[0] < height and 0 <= position[1] < width):
        raise LabError(f"at = {position} is outside of {field.of}'s map of {height}x{width}")
    values = out[0, :, position[0], position[1]]
    channels = int(values.shape[0])
    if channel is not None and not 0 <= channel < channels:
        raise LabError(f"channel = {channel}: {field.of} has channels 0 to {channels - 1}")

    def gradient(vector: Tensor) -> NDArray[np.float64]:
        found, *reached = torch.autograd.grad(
            values,
            [x, *(tokens for _, tokens in attended)],
            vector.to(values),
            retain_graph=True,
            allow_unused=True,
        )
        # What the position does not depend on is not between the two.
        attended[:] = [a for a, g in zip(attended, reached, strict=True) if g is not None]
        if found is None:
            raise LabError(f"{field.of} does not depend on {field.wrt} by any differentiable path")
        per_channel = found[0].double()
        energy = per_channel.square() if method == "frobenius" else per_channel.abs()
        summed: NDArray[np.float64] = energy.sum(0).cpu().numpy()
        return summed

    if method == "sum":
        total, used = [gradient(torch.ones(channels))], 0
    elif method == "single-channel":
        total, used = [gradient(torch.eye(channels)[channel])], 0
    elif probes is None or probes >= channels:
        total, used = [sum(gradient(row) for row in torch.eye(channels))], 0  # type: ignore[list-item]
    else:
        if probes < 2:
            raise LabError(f"probes = {probes}: give at least 2, or none for every channel")
        signs = torch.randint(0, 2, (probes, channels), generator=generator) * 2.0 - 1
        total, used = [gradient(row) for row in signs], probes
    grids = tuple(grid for grid, _ in attended)
    return (*_shares(np.stack(total), field), used), grids, position


def _shares(
    samples: NDArray[np.float64], field: Field
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return shares (H, W) from samples (K, H, W) of the scores, and their standard error.

    A share is a ratio of two means over the same probes; its error is that of the residuals
    e_k − s·t_k, where t_k is the k-th sample's sum.
    """
    totals = samples.sum(axis=(1, 2))
    whole = float(totals.mean())
    if not np.isfinite(whole) or whole <= 0:
        raise LabError(
            f"{field.of} has a gradient of {whole} with respect to {field.wrt}: "
            "the position depends on nothing there, or the weights are not finite"
        )
    shares = samples.mean(axis=0) / whole
    count = len(samples)
    if count == 1:
        return shares, np.zeros_like(shares)
    residuals = samples - shares * totals[:, None, None]
    spread = np.sqrt((residuals**2).sum(axis=0) / (count - 1))
    return shares, spread / whole / np.sqrt(count)


@torch.no_grad()
def _strongest_channel(model: nn.Module, field: Field, starts: Sequence[Tensor]) -> int:
    """Return the channel that varies most over the images."""
    energy = sum(field.run(model, start)[0].flatten(1).var(1) for start in starts)
    assert isinstance(energy, Tensor)
    return int(energy.argmax())

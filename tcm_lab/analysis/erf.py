"""Effective receptive fields of a codec: of its encoder, its decoder and its entropy model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tcm_lab._utils.progress import OnDone
from tcm_lab.analysis._images import Images
from tcm_lab.analysis._jacobian import Field, fields_of
from tcm_lab.analysis._probe import Seen, as_map, forward, hooked, module_named
from tcm_lab.analysis.erf_map import ErfMap, Method, WindowGrid, mean_field
from tcm_lab.errors import LabError

__all__ = [
    "ErfMap",
    "Method",
    "WindowGrid",
    "decoder_fields",
    "effective_receptive_field",
    "entropy_model_fields",
    "mean_field",
    "receptive_fields",
]


def effective_receptive_field(
    codec: nn.Module,
    images: Images,
    *,
    layer: str | None = None,
    method: Method = "frobenius",
    probes: int | None = 16,
    channel: int | None = None,
    seed: int = 0,
    at: tuple[int, int] | None = None,
    side: int | None = None,
    rate: float | None = None,
    on_image: OnDone | None = None,
) -> ErfMap:
    """Return what the middle of the latent depends on in the image, averaged over images.

    Arguments and errors are those of `receptive_fields`.
    """
    return mean_field(
        receptive_fields(
            codec,
            images,
            layer=layer,
            method=method,
            probes=probes,
            channel=channel,
            seed=seed,
            at=at,
            side=side,
            rate=rate,
            on_image=on_image,
        )
    )


def receptive_fields(
    codec: nn.Module,
    images: Images,
    *,
    layer: str | None = None,
    method: Method = "frobenius",
    probes: int | None = 16,
    channel: int | None = None,
    seed: int = 0,
    at: tuple[int, int] | None = None,
    side: int | None = None,
    rate: float | None = None,
    on_image: OnDone | None = None,
) -> tuple[ErfMap, ...]:
    """Return what one position of the latent, or of a layer, depends on in each image.

    Args:
        codec: one of ours or of CompressAI's; or any module, whose output is then the latent.
        images: images; their common middle is taken, in whole strides of the codec.
        layer: dotted name of the module whose output is looked at; None is g_a's, which is y.
        method: ``frobenius``, the Jacobian's energy over all channels, is free of the latent's
            scale and of any choice; ``sum`` and ``single-channel`` are what published images
            show.
        probes: random sign vectors per image; None differentiates every channel.
        channel: for ``single-channel``; None takes the one that varies most.
        seed: of the probes.
        at: (row, column) of the position; None is (h // 2, w // 2).
        side: crop to at most so many pixels; None takes all that the images share.
        rate: level of a rate-conditioned codec; needed only for layers behind g_a.
        on_image: told how many images are done, of how many.

    Raises:
        LabError: an image is too small, there is no such layer, position or channel, or the
            position depends on nothing.
    """
    field = Field(
        of="y" if layer is None else layer,
        wrt="image",
        start=lambda x: x,
        run=lambda model, x: _layer_output(model, x, layer, rate),
        pitch_px=1.0,
    )
    return fields_of(
        codec,
        field,
        images,
        method=method,
        probes=probes,
        channel=channel,
        seed=seed,
        at=at,
        side=side,
        multiple=_stride(codec, 0 if _within_analysis(codec, layer) else 1),
        on_image=on_image,
    )


def decoder_fields(
    codec: nn.Module,
    images: Images,
    *,
    probes: int | None = None,
    seed: int = 0,
    at: tuple[int, int] | None = None,
    side: int | None = None,
    rate: float | None = None,
    on_image: OnDone | None = None,
) -> tuple[ErfMap, ...]:
    """Return which latents a pixel of the decoded image depends on, for each image.

    Args:
        codec: one of ours or of CompressAI's.
        images: images; their common middle is taken, in whole strides of the codec.
        probes: as in `receptive_fields`; a pixel has three channels, so all are the default.
        seed: of the probes.
        at: (row, column) of the pixel; None is the middle one.
        side: crop to at most so many pixels.
        rate: level of a rate-conditioned codec.
        on_image: told how many images are done, of how many.

    Raises:
        LabError: as for `receptive_fields`, or the module has no g_s.
    """
    module_named(codec, "g_s")
    field = Field(
        of="x_hat",
        wrt="y_hat",
        start=lambda x: _captured_input(codec, codec.g_s, x, rate),
        run=lambda model, y_hat: model.g_s(y_hat),  # type: ignore[operator]
        pitch_px=float(_stride(codec, 0)),
    )
    return fields_of(
        codec,
        field,
        images,
        probes=probes,
        seed=seed,
        at=at,
        side=side,
        multiple=_stride(codec, 1),
        on_image=on_image,
    )


def entropy_model_fields(
    codec: nn.Module,
    images: Images,
    slice_index: int,
    *,
    probes: int | None = 16,
    seed: int = 0,
    at: tuple[int, int] | None = None,
    side: int | None = None,
    rate: float | None = None,
    on_image: OnDone | None = None,
) -> tuple[ErfMap, ...]:
    """Return which latents the mean of a slice depends on, for each image.

    Both ways count: through earlier slices, and through z. Rounding passes gradients unchanged.

    Args:
        codec: one of ours.
        images: images; their common middle is taken, in whole strides of the codec.
        slice_index: which slice's mean.
        probes: as in `receptive_fields`.
        seed: of the probes.
        at: (row, column) of the latent; None is the middle.
        side: crop to at most so many pixels.
        rate: level of a rate-conditioned codec.
        on_image: told how many images are done, of how many.

    Raises:
        LabError: as for `receptive_fields`, or the codec has no such slice.
    """
    widths: tuple[int, ...] = getattr(codec, "slice_widths", ())
    if not 0 <= slice_index < len(widths):
        raise LabError(
            f"slice_index = {slice_index}: {type(codec).__name__} has {len(widths)} slices"
            + (f", 0 to {len(widths) - 1}" if widths else "; only tcm_lab's own codecs have any")
        )
    first = sum(widths[:slice_index])
    channels = slice(first, first + widths[slice_index])
    field = Field(
        of=f"mean of slice {slice_index}",
        wrt="y",
        start=lambda x: codec.g_a(x),  # type: ignore[operator]
        run=lambda model, y: _means(model, y, _stride(codec, 0), rate)[:, channels],
        pitch_px=float(_stride(codec, 0)),
        same_grid=True,
    )
    return fields_of(
        codec,
        field,
        images,
        probes=probes,
        seed=seed,
        at=at,
        side=side,
        multiple=_stride(codec, 1),
        on_image=on_image,
    )


def _layer_output(model: nn.Module, x: Tensor, layer: str | None, rate: float | None) -> Tensor:
    """Return g_a's output, or that of the module called ``layer``, as a map."""
    whole: Any = getattr(model, "g_a", model)
    if layer is None:
        return as_map(whole, whole(x), "g_a")
    module = module_named(model, layer)

    def see(module: nn.Module, args: Any, output: Any) -> None:
        del args
        raise Seen(as_map(module, output, layer))

    with hooked([module.register_forward_hook(see)]):
        try:
            if _within_analysis(model, layer):
                whole(x)
            else:
                forward(model, x, rate)
        except Seen as seen:
            return seen.value
    raise LabError(f"layer '{layer}': does not run in a forward pass")


@torch.no_grad()
def _captured_input(codec: nn.Module, module: Any, x: Tensor, rate: float | None) -> Tensor:
    """Return what ``module`` is given when ``codec`` runs on ``x``."""

    def see(module: nn.Module, args: Any) -> None:
        del module
        raise Seen(args[0])

    with hooked([module.register_forward_pre_hook(see)]):
        try:
            forward(codec, x, rate)
        except Seen as seen:
            return seen.value
    raise LabError(f"{type(codec).__name__} does not run this part in a forward pass")


def _means(model: Any, y: Tensor, stride: int, rate: float | None) -> Tensor:
    """Return the means that ``model`` predicts where y is given, (1, M, h, w)."""

    def replace(module: nn.Module, args: Any, output: Any) -> Tensor:
        del module, args, output
        return y

    def see(module: nn.Module, args: Any) -> None:
        del module
        raise Seen(args[2])

    blank = y.new_zeros(1, 3, y.shape[-2] * stride, y.shape[-1] * stride)
    handles = [
        model.g_a.register_forward_hook(replace),
        model.gaussian_conditional.register_forward_pre_hook(see),
    ]
    with hooked(handles):
        try:
            forward(model, blank, rate)
        except Seen as seen:
            return seen.value
    raise LabError(f"{type(model).__name__} predicts no means of its latent")


def _within_analysis(model: nn.Module, layer: str | None) -> bool:
    """Say whether running g_a alone is enough for ``layer``."""
    return layer is None or not hasattr(model, "g_a") or f"{layer}.".startswith("g_a.")


def _stride(codec: nn.Module, level: int) -> int:
    """Return the image's side per side of y (level 0) or of z (level 1)."""
    config: Any = getattr(codec, "config", None)
    if config is not None:
        return int(config.stride[level])
    if not hasattr(codec, "g_a"):
        return 1
    whole = int(getattr(codec, "downsampling_factor", 64))
    return whole if level else min(whole, 16)

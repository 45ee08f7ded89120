"""Effective receptive fields of a codec's encoder, decoder and entropy model."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tcm_lab._utils.progress import OnDone
from tcm_lab.analysis._probe import Images, as_map, capture, module_named, run
from tcm_lab.analysis.erf_map import ErfMap, ErfOptions, mean_erf
from tcm_lab.analysis.jacobian import Dependence, jacobian_maps
from tcm_lab.codec import CodecAdapter
from tcm_lab.codec.adapter import unwrapped
from tcm_lab.errors import LabError, one_of


def effective_receptive_field(
    codec: nn.Module, images: Images, *, on_image: OnDone | None = None, **options: Any
) -> ErfMap:
    """Return which pixels the centre of the latent depends on, averaged over images.

    Args:
        codec: see `erf_maps`.
        images: see `erf_maps`.
        on_image: callback receiving (images done, total images).
        options: fields of `ErfOptions`, such as ``layer="g_a.stages.0"`` or ``probes=None``.

    Raises:
        LabError: as in `erf_maps`, or an option is unknown or out of range.
    """
    return mean_erf(erf_maps(codec, images, erf_options(**options), on_image=on_image))


def erf_options(**options: Any) -> ErfOptions:
    """Return validated `ErfOptions`.

    Raises:
        LabError: an option is unknown or out of range; the message names it.
    """
    return ErfOptions.parse(options)


def erf_maps(
    codec: nn.Module,
    images: Images,
    options: ErfOptions | None = None,
    *,
    on_image: OnDone | None = None,
) -> tuple[ErfMap, ...]:
    """Return which pixels one position of the latent, or of a layer, depends on in each image.

    Args:
        codec: any codec; or any module, whose output is then the latent.
        images: images; their common centre crop is used, in whole strides of the codec.
        options: layer, method, probes, position and crop; the rate matters only behind g_a.
        on_image: callback receiving (images done, total images).

    Raises:
        LabError: an image is too small, the layer, position, channel or rate does not exist, or
            the position depends on nothing.
    """
    options = options or ErfOptions()
    codec, layer, rate = unwrapped(codec), options.layer, options.rate
    multiple, adapter = 1, CodecAdapter(codec)
    adapter.check_rate(rate)
    path = adapter.path_of("g_a")
    if path is not None:
        multiple = adapter.latent_stride if _within_analysis(codec, layer) else adapter.stride
    elif hasattr(codec, "decompress"):  # a codec, whose output is not a map
        multiple = adapter.stride
        if layer is None:
            known = one_of(name for name, _ in codec.named_children())
            raise LabError(
                f"{adapter.name}: the module that computes the latent is unknown. Name it as the "
                f"layer (--layer), {known}, or map it to g_a in an attribute parts, such as "
                "{'encoder': 'g_a'}."
            )
    dependence = Dependence(
        of="y" if layer is None else layer,
        wrt="image",
        start=lambda x: x,
        run=lambda model, x: _layer_output(model, x, layer, rate),
        multiple=multiple,
        end_to_end=not f"{layer or path}.".startswith(f"{path}.stages."),
    )
    return jacobian_maps(codec, dependence, images, options, on_image)


def decoder_erf_maps(
    codec: nn.Module,
    images: Images,
    options: ErfOptions | None = None,
    *,
    on_image: OnDone | None = None,
) -> tuple[ErfMap, ...]:
    """Return which latents a pixel of the decoded image depends on, for each image.

    Arguments are those of `erf_maps`, without a layer. The position is a pixel; its three channels
    are all differentiated.

    Raises:
        LabError: as in `erf_maps`, or the module has no g_s, or a layer is given.
    """
    codec, options = unwrapped(codec), _without_layer(options)
    adapter = CodecAdapter(codec)
    path = adapter.path_of("g_s") or "g_s"
    decoder = module_named(codec, path)
    dependence = Dependence(
        of="x_hat",
        wrt="y_hat",
        start=lambda x: capture("g_s", decoder, lambda: run(codec, x, options.rate), 0),
        run=lambda model, y_hat: module_named(model, path)(y_hat),
        multiple=adapter.stride,
    )
    return jacobian_maps(codec, dependence, images, options, on_image)


def entropy_model_erf_maps(
    codec: nn.Module,
    images: Images,
    slice_index: int,
    options: ErfOptions | None = None,
    *,
    on_image: OnDone | None = None,
) -> tuple[ErfMap, ...]:
    """Return which latents the mean of a slice depends on, for each image.

    Both paths count: through earlier slices, and through z. Rounding passes gradients unchanged.

    Args:
        codec: a codec assembled by this package.
        images: see `erf_maps`.
        slice_index: the slice whose mean is analysed.
        options: see `erf_maps`, without a layer; the position is a latent.
        on_image: callback receiving (images done, total images).

    Raises:
        LabError: as in `erf_maps`, or the codec has no such slice, or a layer is given.
    """
    codec, options = unwrapped(codec), _without_layer(options)
    widths: tuple[int, ...] = getattr(codec, "slice_widths", ())
    if not 0 <= slice_index < len(widths):
        raise LabError(
            f"slice_index = {slice_index}: {type(codec).__name__} has {len(widths)} slices"
            + (f", 0 to {len(widths) - 1}" if widths else "")
        )
    first = sum(widths[:slice_index])
    channels = slice(first, first + widths[slice_index])
    stride = CodecAdapter(codec).latent_stride
    dependence = Dependence(
        of=f"mean of slice {slice_index}",
        wrt="y",
        start=lambda x: codec.g_a(x),  # type: ignore[operator]  # nn.Module's typing
        run=lambda model, y: _means(model, y, stride, options.rate)[:, channels],
        multiple=CodecAdapter(codec).stride,
        same_grid=True,
    )
    return jacobian_maps(codec, dependence, images, options, on_image)


def _without_layer(options: ErfOptions | None) -> ErfOptions:
    if options is not None and options.layer is not None:
        raise LabError(f"layer = '{options.layer}': only erf_maps analyses layers; leave it out")
    return options or ErfOptions()


def _within_analysis(model: nn.Module, layer: str | None) -> bool:
    """Return whether running g_a alone is enough for ``layer``."""
    path = CodecAdapter(model).path_of("g_a")
    if path is None:
        return not hasattr(model, "decompress")
    return layer is None or f"{layer}.".startswith(f"{path}.")


def _layer_output(model: nn.Module, x: Tensor, layer: str | None, rate: float | None) -> Tensor:
    """Return g_a's output, or that of the module called ``layer``, as a map."""
    path = CodecAdapter(model).path_of("g_a")
    analysis = model if path is None else module_named(model, path)
    if layer is None:
        return as_map("g_a", analysis, x)
    module = module_named(model, layer)

    def output(x: Tensor) -> Any:
        return capture(
            f"layer '{layer}'",
            module,
            lambda: analysis(x) if _within_analysis(model, layer) else run(model, x, rate),
        )

    return as_map(layer, output, x)


def _means(model: Any, y: Tensor, stride: int, rate: float | None) -> Tensor:
    """Return the means (1, M, h, w) that ``model`` predicts for a given y."""
    blank = y.new_zeros(1, 3, y.shape[-2] * stride, y.shape[-1] * stride)
    with model.g_a.register_forward_hook(lambda *_: y):
        means: Tensor = capture(
            "gaussian_conditional", model.gaussian_conditional, lambda: run(model, blank, rate), 2
        )
    return means

"""Runs a codec on images, and captures intermediate values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tcm_lab._utils.hooks import hooked
from tcm_lab._utils.progress import OnDone
from tcm_lab.blocks import WindowAttention
from tcm_lab.codec import CodecAdapter
from tcm_lab.codec.adapter import evaluating
from tcm_lab.codec.inputs import check_images
from tcm_lab.data import ImageSet
from tcm_lab.errors import LabError, near

Images = ImageSet | Sequence[Tensor] | Tensor
"""An image set, a sequence of images (3, H, W), or a batch (B, 3, H, W); uint8 or in [0, 1]."""


def image_names(images: Images) -> tuple[str, ...]:
    """Return the images' names, or their numbers.

    Raises:
        LabError: there are no images.
    """
    if not len(images):
        raise LabError("no images to analyse; give a folder that contains some")
    return images.names if isinstance(images, ImageSet) else tuple(map(str, range(len(images))))


def iterate_images(
    images: Images, model: nn.Module, on_image: OnDone | None = None
) -> Iterator[Tensor]:
    """Yield each image as (1, 3, H, W) in [0, 1] on the model's device, and report progress.

    For a model without g_a, which may be any network, inputs may have any channels and values.

    Raises:
        LabError: an element is not an image.
    """
    adapter = CodecAdapter(model)
    is_codec, like = (
        adapter.path_of("g_a") is not None,
        torch.empty(0, device=adapter.device, dtype=adapter.dtype),
    )
    for done, image in enumerate(images, 1):
        x = image
        if isinstance(image, Tensor):
            x = image.to(like) / 255 if image.dtype == torch.uint8 else image.to(like)
        if is_codec:
            check_images(x, like, single=True)
        yield x[None]
        if on_image is not None:
            on_image(done, len(images))


def run(codec: nn.Module, x: Tensor, rate: float | None) -> Mapping[str, Any]:
    """Run a forward pass on images (B, 3, H, W) of any size, in evaluation mode.

    Raises:
        LabError: the codec has no such rate.
    """
    adapter = CodecAdapter(codec)
    adapter.check_rate(rate)
    with evaluating(codec):
        return adapter.forward(adapter.pad(x), rate)


def pitch_px(codec: nn.Module, x: Tensor, rows: int) -> float:
    """Return the pixels of the padded image per row of a map with ``rows`` rows."""
    return CodecAdapter(codec).padded_size((x.shape[-2], x.shape[-1]))[0] / rows


@contextmanager
def outputs_of(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Any]]:
    """Collect each module's last output inside the ``with`` block, in the order of execution."""
    outputs: dict[str, Any] = {}

    def keep(name: str, module: nn.Module, args: Any, output: Any) -> None:
        outputs[name] = output

    with hooked([m.register_forward_hook(partial(keep, name)) for name, m in modules.items()]):
        yield outputs


class _Captured(Exception):
    """Ends a forward pass from within a hook."""


def capture(
    name: str, module: nn.Module, forward: Callable[[], Any], argument: int | None = None
) -> Any:
    """Call ``forward`` until ``module`` runs; return its output, or its input at ``argument``.

    Raises:
        LabError: the module, called ``name`` in the message, does not run.
    """
    captured: list[Any] = []

    def keep(_: nn.Module, args: tuple[Any, ...], *output: Any) -> None:
        captured.append(output[0] if argument is None else args[argument])
        raise _Captured

    hook = module.register_forward_hook if argument is None else module.register_forward_pre_hook
    with hook(keep), suppress(_Captured):
        forward()
    if not captured:
        raise LabError(f"{name} does not run in a forward pass")
    return captured[0]


def module_named(model: nn.Module, name: str) -> nn.Module:
    """Return the submodule called ``name``.

    Raises:
        LabError: there is no such module; the message names the most similar ones.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name not in modules:
        raise LabError(
            f"layer '{name}': the model has no such module.{near(name, modules)} "
            "model.named_modules() lists them."
        )
    return modules[name]


def as_map(name: str, compute: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    """Return what a layer computes from ``x`` as a feature map (B, C, H, W).

    Layers on tokens have their channels last. The two axes that keep the image's aspect are rows
    and columns; where that leaves a choice, they are the axes that a wider image changes.

    Args:
        name: name of the layer, for messages.
        compute: returns the layer's output for images (B, 3, H, W).
        x: the images.

    Raises:
        LabError: the output is not a feature map.
    """
    output = compute(x)
    if not isinstance(output, Tensor) or output.ndim != 4 or len(output) != len(x):
        raise LabError(f"layer '{name}' returns {_shape(output)}, not a feature map (B, C, H, W)")
    first, last = (_has_aspect(x, *output.shape[a : a + 2]) for a in (2, 1))
    if first == last:
        with torch.no_grad():
            wider = compute(torch.cat((x, x), -1))
        first, last = (_shape(wider)[a] != output.shape[a] for a in (3, 2))
    if first == last:
        raise LabError(
            f"layer '{name}' returns {_shape(output)}, and {_shape(wider)} for an image twice as "
            "wide, so it is unclear which axes are rows and columns; name a layer whose map is as "
            "wide as its image"
        )
    return output if first else output.permute(0, 3, 1, 2)


def _has_aspect(x: Tensor, rows: int, columns: int) -> bool:
    """Return whether a map has the aspect of an image, to the rounding of its sides."""
    height, width = x.shape[-2:]
    return abs(math.log((rows * width) / (columns * height))) < 0.1


def _shape(output: Any) -> Any:
    return tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__


def attention_modules(model: nn.Module) -> dict[str, WindowAttention]:
    """Return the window attention modules of ``model`` by name, in the order of its modules."""
    return {n: m for n, m in model.named_modules() if isinstance(m, WindowAttention)}


@contextmanager
def attention_inputs(
    model: nn.Module, on_input: Callable[[str, WindowAttention, Tensor], None]
) -> Iterator[None]:
    """Call ``on_input(name, module, x)`` for each window attention that runs inside the block."""

    def call(name: str, module: WindowAttention, args: tuple[Tensor]) -> None:
        on_input(name, module, args[0])

    named = attention_modules(model).items()
    with hooked([m.register_forward_pre_hook(partial(call, name)) for name, m in named]):
        yield

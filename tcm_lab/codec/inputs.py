"""Checks of a codec's inputs, with messages that say what was given and what would work."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tcm_lab.codec.config import VariantConfig
from tcm_lab.codec.cost import padded_size
from tcm_lab.errors import LabError, brief

#: Values further outside [0, 1] than this are in another range: resizing overshoots less.
_OVERSHOOT = 0.5


class InputError(LabError, ValueError):
    """Images, a rate or coded bytes that a codec cannot use; the message says what would work."""


def padded(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Pad images (B, 3, H, W) to ``size`` (height, width) by repeating the last row and column."""
    missing = (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2])
    return F.pad(x, missing, mode="replicate") if any(missing) else x


def check_images(x: object, weight: Tensor, *, single: bool = False, values: bool = True) -> None:
    """Refuse anything but a batch of RGB images (B, 3, H, W) in [0, 1].

    Args:
        x: the input.
        weight: any weight of the module that gets the images, which need its dtype and device.
        single: whether one image (3, H, W) is expected instead.
        values: whether to check the values, too, for which a GPU has to finish its work.

    Raises:
        InputError: the message says what was given, what is expected and how to convert it.
    """
    expected = "(3, H, W)" if single else "(B, 3, H, W)"
    if not isinstance(x, Tensor):
        raise InputError(
            f"images: {type(x).__name__} is not a tensor; give a float tensor {expected} in [0, 1]"
        )
    fault = _shape_fault(x, single) or _kind_fault(x, weight)
    if fault is None and values and _is_readable(x):
        fault = _value_fault(x)
    if fault is not None:
        dtype = str(x.dtype).removeprefix("torch.")
        raise InputError(
            f"images: {dtype} {tuple(x.shape)}: {fault}; expected RGB images {expected}, "
            "floating-point values in [0, 1]"
        )


def _shape_fault(x: Tensor, single: bool) -> str | None:
    shape, dims = tuple(x.shape), 3 if single else 4
    if x.ndim == dims - 1 and not single and x.shape[0] == 3:
        return "one image without a batch; give x[None]"
    if x.ndim == dims + 1 and single and shape[0] == 1:
        return "a batch; give x[0]"
    if x.ndim != dims:
        return f"{x.ndim} dimensions instead of {dims}"
    channels = shape[-3]
    if 0 in shape:
        return "it is empty"
    if channels == 3:
        return None
    if shape[-1] in (1, 3, 4):
        return f"channels come last; give x.permute({'2, 0, 1' if single else '0, 3, 1, 2'})"
    if channels == 1:
        return f"grey; give x.expand({'3, -1, -1' if single else '-1, 3, -1, -1'})"
    return f"{channels} channels" + ("; leave out the transparency" if channels == 4 else "")


def _kind_fault(x: Tensor, weight: Tensor) -> str | None:
    if not x.is_floating_point():
        return "bytes; give x.float() / 255" if x.dtype == torch.uint8 else "not floating-point"
    if x.device != weight.device:
        return f"on {x.device}, the codec is on {weight.device}; give x.to('{weight.device}')"
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        return f"the codec computes in {weight.dtype}; give x.to({weight.dtype})"
    return None


def _is_readable(x: Tensor) -> bool:
    """Return whether the values can be read: they are neither traced nor captured."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or x.is_meta
        or type(x) not in (Tensor, torch.nn.Parameter)
        or (x.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def _value_fault(x: Tensor) -> str | None:
    low, high = torch.stack(torch.aminmax(x.detach())).tolist()
    if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        return None
    if not (abs(low) < torch.inf and abs(high) < torch.inf):
        return "values that are not finite"
    fix = "undo the normalisation" if low < 0 else "divide by 255, or by the value of white"
    return f"values from {low:.4g} to {high:.4g}; {fix}"


def levels_of(rate: object, x: Tensor, top: int) -> Tensor:
    """Return the rate level of each image of a batch, (B,), without checking its range.

    Args:
        rate: one level for all images, or one for each.
        x: the batch; its values do not matter.
        top: the highest level.

    Raises:
        InputError: ``rate`` is not a number, or its length is not that of the batch.
    """
    try:
        levels = torch.as_tensor(rate, dtype=torch.float32, device=x.device)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"rate = {brief(repr(rate))}: give a number between 0 and {top}") from None
    images = x.shape[0]
    if levels.ndim > 1 or levels.numel() not in (1, images):
        raise InputError(
            f"rate: values of shape {tuple(levels.shape)} for {images} images; give one number "
            f"between 0 and {top}, or one for each image"
        )
    return levels.expand(images)


def sides_of(name: str, value: Iterable[Any]) -> tuple[int, int]:
    """Return ``value`` as (height, width).

    Raises:
        InputError: it is not one; the message calls it ``name``.
    """
    try:
        height, width = map(operator.index, value)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1:
        raise InputError(
            f"{name} = {brief(repr(value))}: give (height, width), two positive integers"
        )
    return height, width


def check_sides(
    config: VariantConfig, shape: Iterable[Any], size: Iterable[Any] | None
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (height, width) of z, and of the decoded image: the whole padded one by default.

    Raises:
        InputError: a size is invalid, no image has a z of ``shape``, or that of ``size`` has none.
    """
    stride, shape = config.stride[1], sides_of("shape", shape)
    full = (shape[0] * stride, shape[1] * stride)
    if padded_size(config, full) != full:
        raise InputError(
            f"shape = {shape}: no image has such a z, since {config.name} pads images to multiples "
            f"of {config.padding} and so z to multiples of {config.padding // stride}; give the "
            "shape as compress returned it"
        )
    size = full if size is None else sides_of("size", size)
    if padded_size(config, size) != full:
        raise InputError(
            f"size = {size}: an image of that size has no z of shape {shape}; give both as "
            "compress returned them, or leave size out for the whole padded image"
        )
    return shape, size


def check_streams(strings: object) -> int:
    """Return the number of images that the streams hold.

    Raises:
        InputError: they are not lists as ``compress`` returns them.
    """
    if (
        not isinstance(strings, list | tuple)
        or len(strings) not in (2, 3)
        or not all(isinstance(part, list | tuple) for part in strings)
        or not all(isinstance(string, bytes) for part in strings for string in part)
    ):
        raise InputError(
            f"strings = {brief(repr(strings))}: give a list of bytes for y and one for z, and for "
            "a portable stream one of the encoder's decisions, as compress returns them"
        )
    counts = dict(zip(("y", "z", "decisions"), map(len, strings), strict=False))
    if len(set(counts.values())) > 1:
        shown = " but ".join(f"{count} of {name}" for name, count in counts.items())
        raise InputError(f"strings: for different numbers of images: {shown}")
    if not counts["y"]:
        raise InputError("strings: for no image; give at least one of each kind")
    return counts["y"]

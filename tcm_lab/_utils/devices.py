"""Devices by name, checked before use, and the arithmetic on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from tcm_lab.errors import LabError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "tf32", "bfloat16", "float16"]
"""Arithmetic of networks. ``tf32`` is float32 with products of ten mantissa bits, on a GPU."""


def checked_device(device: str | torch.device, option: str = "device =") -> torch.device:
    """Return a device that codecs can run on: cpu, cuda, or one of several GPUs, such as cuda:1.

    Raises:
        LabError: the device is of another kind, or this machine does not have it.
    """
    import torch

    try:
        parsed = torch.device(device)
    except RuntimeError:
        parsed = None
    if parsed is None or parsed.type not in ("cpu", "cuda"):
        raise LabError(f"{option} {device}: unknown. Known: cpu or cuda.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if parsed.type == "cuda" and not count:
        raise LabError(f"{option} {device}: torch finds no GPU here; use cpu.")
    if parsed.type == "cuda" and (parsed.index or 0) >= count:
        raise LabError(f"{option} {device}: torch finds GPUs up to cuda:{count - 1}.")
    return parsed


def checked_precision(
    precision: str, device: torch.device, option: str = "precision ="
) -> Precision:
    """Return a precision that the device supports.

    Raises:
        LabError: the name is unknown, or the device does not support that precision.
    """
    known = get_args(Precision)
    if precision not in known:
        raise LabError(f"{option} {precision}: unknown. Known: {', '.join(known)}.")
    if precision == "tf32" and device.type != "cuda":
        raise LabError(f"{option} tf32: only GPUs support it; use float32 on {device.type}.")
    return cast("Precision", precision)


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Run the block's networks in a precision: 16 bits by autocast, TF32 only on request.

    By default torch lets a GPU's convolutions use TF32 for float32. A nested block has its own
    precision.

    Raises:
        LabError: as `checked_precision`.
    """
    import torch

    checked_precision(precision, device)
    products: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    with ExitStack() as stack:
        for backend in products:
            stack.callback(setattr, backend, "allow_tf32", backend.allow_tf32)
            backend.allow_tf32 = precision == "tf32"
        dtype = getattr(torch, precision) if precision in ("bfloat16", "float16") else None
        stack.enter_context(torch.autocast(device.type, dtype=dtype, enabled=dtype is not None))
        yield

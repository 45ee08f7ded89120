"""Devices by name, checked before anything is sent there, and the arithmetic on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from tcm_lab.errors import LabError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "tf32", "bfloat16", "float16"]
"""Arithmetic of networks. ``tf32`` is float32 whose products a GPU takes to ten bits."""


def checked_device(device: str | torch.device, option: str = "device =") -> torch.device:
    """Return a device on which codecs run here: cpu, cuda or one of several GPUs, such as cuda:1.

    Raises:
        LabError: it is another kind of device, or this machine has none such.
    """
    import torch

    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise LabError(f"{option} {device}: unknown. Known: cpu or cuda.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found.type == "cuda" and not count:
        raise LabError(f"{option} {device}: torch finds no GPU here; use cpu.")
    if found.type == "cuda" and (found.index or 0) >= count:
        raise LabError(f"{option} {device}: torch finds GPUs up to cuda:{count - 1}.")
    return found


def checked_precision(
    precision: str, device: torch.device, option: str = "precision ="
) -> Precision:
    """Return one of `Precision` that the device has.

    Raises:
        LabError: the name is unknown, or the device lacks that precision.
    """
    known = get_args(Precision)
    if precision not in known:
        raise LabError(f"{option} {precision}: unknown. Known: {', '.join(known)}.")
    if precision == "tf32" and device.type != "cuda":
        raise LabError(f"{option} tf32: only GPUs have it; on {device.type} take float32.")
    return cast("Precision", precision)


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Run the networks of a block in a precision: 16 bits by autocast, and TF32 only if asked for.

    By default torch lets a GPU's convolutions take TF32 for float32. A block within another one has
    its own precision.

    Raises:
        LabError: as `checked_precision`.
    """
    import torch

    checked_precision(precision, device)
    products: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    with ExitStack() as stack:
        for each in products:
            stack.callback(setattr, each, "allow_tf32", each.allow_tf32)
            each.allow_tf32 = precision == "tf32"
        dtype = getattr(torch, precision) if precision in ("bfloat16", "float16") else None
        stack.enter_context(torch.autocast(device.type, dtype=dtype, enabled=dtype is not None))
        yield

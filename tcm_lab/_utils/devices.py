"""Devices by name, checked before anything is sent there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tcm_lab.errors import LabError

if TYPE_CHECKING:
    import torch


def checked_device(device: str | torch.device, option: str = "device =") -> torch.device:
    """Return a device on which codecs run here.

    Args:
        device: cpu, cuda or one GPU of several, such as cuda:1.
        option: what the message calls it.

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

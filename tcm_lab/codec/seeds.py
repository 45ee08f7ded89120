"""Random numbers of its own for every part of a codec."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def begin_anew(seed: int, device: torch.device) -> None:
    """Begin the random numbers of the CPU and of a device at ``seed``.

    Those of other GPUs go on, which ``torch.manual_seed`` would begin anew.
    """
    if device.type not in ("cpu", "meta", "cuda"):
        torch.manual_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def random_state(seed: int) -> Iterator[None]:
    """Draw the random numbers of ``seed`` inside the ``with`` block, and leave the caller's alone.

    That is, of the CPU, and of the GPU on which tensors are made by default, if they are.
    """
    device = torch.get_default_device()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        begin_anew(seed, device)
        yield


def seeded(build: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what ``build`` makes of its arguments, from random numbers of its own.

    A part then starts from the same weights however many numbers the parts before it have drawn.
    """
    seed = int(torch.randint(2**62, (), device="cpu"))
    with random_state(seed):
        return build(*args, **kwargs)

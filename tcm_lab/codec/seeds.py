"""Independent random numbers for every part of a codec."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def begin_anew(seed: int, device: torch.device) -> None:
    """Seed the random numbers of the CPU and of a device.

    Unlike ``torch.manual_seed``, this leaves other GPUs alone.
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
    """Draw the random numbers of ``seed`` inside the ``with`` block, then restore the caller's.

    This concerns the CPU, and the default device if it is a GPU.
    """
    device = torch.get_default_device()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        begin_anew(seed, device)
        yield


def seeded(build: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``build`` with random numbers of its own, and return the result.

    A part then starts from the same weights, however many numbers the parts before it have drawn.
    """
    seed = int(torch.randint(2**62, (), device="cpu"))
    with random_state(seed):
        return build(*args, **kwargs)

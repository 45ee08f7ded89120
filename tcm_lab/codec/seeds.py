"""Random numbers of its own for every part of a codec."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def seeded(build: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what ``build`` makes of its arguments, from random numbers of its own.

    A part then starts from the same weights however many numbers the parts before it have drawn.
    """
    seed = int(torch.randint(2**62, (), device="cpu"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(*args, **kwargs)

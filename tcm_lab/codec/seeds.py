"""Random numbers of its own for every part of a codec."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def random_state(seed: int) -> Iterator[None]:
    """Draw the random numbers of ``seed`` inside the ``with`` block, and leave the caller's alone.

    A GPU's go on, too, which ``torch.manual_seed`` would begin anew; only where tensors are made on
    one by default are they needed here.
    """
    on_cpu = torch.get_default_device().type in ("cpu", "meta")
    begin = torch.default_generator.manual_seed if on_cpu else torch.manual_seed
    with torch.random.fork_rng(devices=[]):
        begin(seed)
        yield


def seeded(build: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what ``build`` makes of its arguments, from random numbers of its own.

    A part then starts from the same weights however many numbers the parts before it have drawn.
    """
    seed = int(torch.randint(2**62, (), device="cpu"))
    with random_state(seed):
        return build(*args, **kwargs)

"""Random numbers of its own for every part of a codec."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_seed() -> Iterator[None]:
    """Start a part from random numbers of its own, whatever the parts before it have drawn."""
    seed = int(torch.randint(2**62, (), device="cpu"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield

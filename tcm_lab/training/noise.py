"""Uniform noise that does not depend on how many processes share a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def seed_step(seed: int, step: int, attempt: int) -> None:
    """Seed torch for one step, so that its noise follows from (seed, step, attempt) alone."""
    state = np.random.SeedSequence((seed, 3, step, attempt)).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]) >> 1)


class SharedNoise(TorchFunctionMode):
    """Draws the noise of the global batch in each process and hands out this rank's part.

    With it, the ranks' gradients average to those of one process on the whole batch, sample for
    sample. It covers what quantisation by noise calls: ``uniform_`` and ``rand_like``. The batch
    is the first dimension, but the last of (C, 1, B * ...), the layout of CompressAI's factorised
    prior.
    """

    def __init__(self, rank: int, world: int) -> None:
        super().__init__()
        self._rank = rank
        self._world = world

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.uniform_:
            tensor, *bounds = args
            return tensor.copy_(self._part(tensor, *bounds, **kwargs))
        if func is torch.rand_like:
            return self._part(args[0])
        return func(*args, **kwargs)

    def _part(self, like: Tensor, *bounds: float, **kwargs: Any) -> Tensor:
        dim = 2 if like.ndim == 3 and like.shape[1] == 1 else 0
        shape = list(like.shape)
        shape[dim] *= self._world
        with torch._C.DisableTorchFunction():
            whole = torch.empty(shape, dtype=like.dtype, device=like.device)
            whole.uniform_(*bounds, **kwargs)
            return whole.narrow(dim, self._rank * like.shape[dim], like.shape[dim])

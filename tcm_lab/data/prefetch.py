"""Batches made ahead of time by threads, handed out in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor


class Batches(Protocol):
    """Anything that makes the batch of a step, such as a ``CropSource``."""

    @property
    def fingerprint(self) -> str:
        """A short text that stands for the data, for records."""

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Tensor:
        """Make this rank's part of the global batch of ``step``: (B / world, 3, S, S)."""


def prefetch(
    source: Batches,
    steps: range,
    batch_size: int,
    *,
    rank: int = 0,
    world: int = 1,
    workers: int = 2,
    ahead: int = 4,
    pin: bool = False,
) -> Generator[Tensor, None, None]:
    """Yield the batch of every step in ``steps``, keeping ``ahead`` of them in the making.

    Close the iterator (or exhaust it) to end its threads. ``pin`` puts the batches in page-locked
    memory, from which a GPU copies without waiting. An error in the source is raised at its step.
    """

    def make(step: int) -> Tensor:
        batch = source.batch(step, batch_size, rank, world)
        return batch.pin_memory() if pin else batch

    # Each thread would have as many more of torch's own, all waiting for each other's cores.
    pool = ThreadPoolExecutor(
        workers, thread_name_prefix="crops", initializer=torch.set_num_threads, initargs=(1,)
    )
    waiting: deque[Future[Tensor]] = deque()
    todo = iter(steps)
    try:
        for step in todo:
            waiting.append(pool.submit(make, step))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)

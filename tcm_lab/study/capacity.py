"""How many workers fit a machine."""

from __future__ import annotations

import os

import torch

from tcm_lab.errors import ConfigError

_MAX_CPU_WORKERS = 4


def worker_count(workers: int | None) -> int:
    """Return how many processes work: as given, or one per GPU, or one per core up to 4."""
    if workers is not None:
        if workers < 1:
            raise ConfigError(f"workers = {workers}: must be at least 1")
        return workers
    return len(visible_gpus()) or min(cores(), _MAX_CPU_WORKERS)


def cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def threads_each(workers: int) -> int:
    """Return how many threads each worker has: its share of the cores, or OMP_NUM_THREADS if less.

    Threads that wait for each other on a busy machine can cost several times their work.
    """
    share = max(1, cores() // workers)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(asked)) if asked.isdigit() and int(asked) else share


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(index) for index in range(count)]

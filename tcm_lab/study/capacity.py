"""Number of workers and threads for a machine."""

from __future__ import annotations

import os

import torch

from tcm_lab.errors import ConfigError

_MAX_CPU_WORKERS = 4


def worker_count(workers: int | None) -> int:
    """Return the number of processes: as given, else one per GPU, else one per core up to 4."""
    if workers is not None:
        if workers < 1:
            raise ConfigError(f"workers = {workers}: must be at least 1")
        return workers
    return len(visible_gpus()) or min(cores(), _MAX_CPU_WORKERS)


def cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not available on every system
        return os.cpu_count() or 1


def threads_each(workers: int) -> int:
    """Return the threads per worker: its share of the cores, or OMP_NUM_THREADS if that is less.

    On a busy machine, threads that wait for each other can cost several times their actual work.
    """
    share = max(1, cores() // workers)
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(limit)) if limit.isdigit() and int(limit) else share


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, in the notation of ``CUDA_VISIBLE_DEVICES``."""
    count = torch.cuda.device_count()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return listed.split(",")[:count] if listed else [str(index) for index in range(count)]

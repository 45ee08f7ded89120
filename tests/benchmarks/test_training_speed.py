"""A training step beside the plain one: forward, backward and both optimisers, taken in turns.

Run as a script with ``ours`` or ``plain``, it takes a few steps and prints the peak memory of the
process, which two ways within one process could not tell apart.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from plain import PlainTraining

import tcm_lab
from tcm_lab.training import get_recipe
from tcm_lab.training.run import Run

ROUNDS, CROP, BATCH = 5, 256, 2
THREADS = min(2, os.cpu_count() or 1)
LAMBDA = 0.013
X = torch.rand(BATCH, 3, CROP, CROP, generator=torch.Generator().manual_seed(0))


class Given:
    """Crops that cost nothing to make."""

    fingerprint = "given"
    skipped: tuple[str, ...] = ()

    def batch(self, *_: int) -> torch.Tensor:
        return X


def ours() -> Callable[[], None]:
    torch.manual_seed(0)
    recipe = get_recipe("published", lambdas=(LAMBDA,), batch=BATCH, channels_last=True)
    fabric = Fabric(accelerator="cpu", devices=1)
    run = Run(tcm_lab.build("tcm-small"), recipe, Given(), 0, fabric, None, None)
    run.begin(resume=False)
    return lambda: run._one_step(X)


def plain() -> Callable[[], None]:
    torch.manual_seed(0)
    training = PlainTraining(tcm_lab.build("tcm-small"), LAMBDA)
    return lambda: training.step(X)


def peak_memory_mb(way: str) -> float:
    done = subprocess.run(
        [sys.executable, __file__, way], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def test_a_training_step_is_faster_and_takes_no_more_memory(benchmark: Any) -> None:
    torch.set_num_threads(THREADS)
    plain_step, plain_s = plain(), list[float]()
    plain_step()

    def setup() -> None:
        start = time.perf_counter()
        plain_step()
        plain_s.append(time.perf_counter() - start)

    benchmark.pedantic(ours(), setup=setup, rounds=ROUNDS, warmup_rounds=1)
    median_s = statistics.median(plain_s[1:])
    benchmark.extra_info |= {
        "plain_s": round(median_s, 3),
        "ratio": round(median_s / benchmark.stats.stats.median, 2),
        "peak_memory_mb": peak_memory_mb("ours"),
        "plain_peak_memory_mb": peak_memory_mb("plain"),
        "threads": THREADS,
        "model": f"tcm-small, {BATCH} crops of {CROP}x{CROP}, float32",
    }


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    step = {"ours": ours, "plain": plain}[sys.argv[1]]()
    for _ in range(3):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

"""A training step beside the plain one: forward, backward and both optimisers, taken in turns.

Each way has a process of its own, for the memory is part of it: how much it takes at most, and
whether what it frees goes back to the system. Run as a script with ``ours`` or ``plain``, it takes
a step whenever a line comes in, and says how long that took and how much memory it had at most.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from plain import PlainTraining

import tcm_lab
from tcm_lab._compat.malloc import keep_freed_memory
from tcm_lab.training import get_recipe
from tcm_lab.training.loop import TrainingLoop

ROUNDS, CROP, BATCH = 9, 256, 2
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
    keep_freed_memory()  # as `train` does
    torch.manual_seed(0)
    recipe = get_recipe("published", lambdas=(LAMBDA,), batch=BATCH, channels_last=True)
    fabric = Fabric(accelerator="cpu", devices=1)
    run = TrainingLoop(tcm_lab.build("tcm-small"), recipe, Given(), fabric, None, None)
    run.begin(resume=False)
    return lambda: run._one_step(X)


def plain() -> Callable[[], None]:
    torch.manual_seed(0)
    training = PlainTraining(tcm_lab.build("tcm-small"), LAMBDA)
    return lambda: training.step(X)


@contextmanager
def steps(way: str) -> Iterator[Callable[[], tuple[float, float]]]:
    """Give a function that takes one step and returns its seconds and the peak memory in MB."""
    command = [sys.executable, __file__, way]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        going, told = process.stdin, process.stdout

        def step() -> tuple[float, float]:
            print(file=going, flush=True)
            seconds, peak_mb = told.readline().split()
            return float(seconds), float(peak_mb)

        yield step
        going.close()


def test_a_training_step_is_faster_and_takes_no_more_memory(benchmark: Any) -> None:
    theirs: list[tuple[float, float]] = []
    mine: list[tuple[float, float]] = []
    with steps("ours") as our_step, steps("plain") as plain_step:
        for step in (our_step, plain_step, our_step, plain_step):
            step()  # to warm up
        benchmark.pedantic(
            lambda: mine.append(our_step()),
            setup=lambda: theirs.append(plain_step()),
            rounds=ROUNDS,
        )
    ours_s, plain_s = (statistics.median(s for s, _ in way) for way in (mine, theirs))
    ratios = sorted(b / a for (a, _), (b, _) in zip(mine, theirs, strict=True))
    benchmark.extra_info |= {
        "plain_s": round(plain_s, 3),
        "ratio": round(plain_s / ours_s, 2),
        "ratio_of_each_turn": [round(ratio, 2) for ratio in ratios],
        "peak_memory_mb": round(mine[-1][1]),
        "plain_peak_memory_mb": round(theirs[-1][1]),
        "threads": THREADS,
        "model": f"tcm-small, {BATCH} crops of {CROP}x{CROP}, float32",
    }
    assert mine[-1][1] <= theirs[-1][1]


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    step = {"ours": ours, "plain": plain}[sys.argv[1]]()
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        seconds = time.perf_counter() - start
        print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)

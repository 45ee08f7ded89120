"""Train the tiny codec, in this process or in processes that the tests kill or run twice.

Arguments: DIRECTORY, then any of kill=STEP, devices=N, steps=N.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import torch
from stand_in import RandomCrops, TinyCodec

from tcm_lab.training import Recipe, train


def run(directory: Path, *, kill: int | None = None, devices: int = 1, steps: int = 23) -> None:
    """Train in ``directory``, resuming from any existing checkpoint."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = Recipe(
        lambdas=(0.005, 0.02), steps=steps, batch=4, crop=16, lr=1e-3,
        schedule="cosine", ema=0.9, checkpoint_every=5,
    )  # fmt: skip
    train(
        TinyCodec(levels=2),
        recipe,
        RandomCrops(signal_at=None if kill is None else (kill, signal.SIGKILL)),
        directory=directory,
        resume=True,
        accelerator="cpu",
        devices=devices,
    )


if __name__ == "__main__":
    options = dict(argument.partition("=")[::2] for argument in sys.argv[2:])
    run(Path(sys.argv[1]), **{name: int(value) for name, value in options.items()})

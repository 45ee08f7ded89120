"""A trainer that does not train: rate and quality follow from a variant's configuration."""

from __future__ import annotations

import math
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from tcm_lab._utils.environment import Environment
from tcm_lab.codec import VariantConfig
from tcm_lab.errors import LabError
from tcm_lab.evaluation import ImageResult, RdPoint, RdRecord
from tcm_lab.study.estimators import Outcome, Task, Watch

SPACE = """
name: toy
base: tcm-nano
axes:
  split: {path: "g_*.split", choices: [0.0, 0.25, 0.5, 0.75, 1.0]}
sampler: grid
budget: {recipe: scratch, steps: 40, rate_levels: 4}
"""


def goodness(config: VariantConfig) -> float:
    """Return the quality of a variant, which is best at a split of 3/4 and with many slices."""
    tree = config.model_dump(mode="json")
    block = tree["g_a"]["stages"][0]["block"]
    split = block.get("split", 0.0)
    slices = tree["entropy_model"]["slices"]
    squeeze = tree["entropy_model"]["attention"].get("squeeze") or 0
    window = block.get("window_size", 8)
    return (
        1.0
        - 0.4 * (split - 0.75) ** 2
        + 0.05 * math.log2(slices if isinstance(slices, int) else len(slices))
        + 0.002 * squeeze
        + 0.02 * math.log2(window)
    )


def curve(config: VariantConfig, *, bonus: float = 0.0, levels: int = 4) -> RdRecord:
    """Return an evaluation whose PSNR increases with the quality of the variant."""
    quality = goodness(config) + bonus
    points = []
    for level in range(levels):
        images = [
            ImageResult(
                name=f"{index}.png",
                height=64,
                width=64,
                bits=round(64 * 64 * 0.2 * 2**level),
                estimated_bits=64 * 64 * 0.2 * 2**level,
                psnr_db=26 + 2 * level + 2 * quality + 0.3 * index,
                ms_ssim=None,
                encode_ms=10.0,
                decode_ms=12.0,
            )
            for index in range(3)
        ]
        points.append(RdPoint(rate=float(level), images=tuple(images)))
    return RdRecord(
        name=config.name,
        model=config.model_dump(mode="json"),
        points=tuple(points),
        data_fingerprint="toy",
        environment=Environment(device="toy", threads=1, python="3", versions={"toy": "1"}),
    )


@dataclass(frozen=True)
class Surrogate:
    """A replacement for the real trainer.

    Attributes:
        log: file with a line for every finished training run.
        seconds: duration of a training run.
        interrupt_after: number of finished runs after which the next one raises KeyboardInterrupt.
        kill_on: suffixes of variant names for which this process is killed by SIGKILL, once.
        fails_on: suffix of the names of variants whose training fails.
        seed_noise: quality gained per seed.
    """

    log: Path
    seconds: float = 0.0
    interrupt_after: int | None = None
    kill_on: tuple[str, ...] = ()
    fails_on: str = "?"
    seed_noise: float = 0.0

    def __call__(self, task: Task, watch: Watch) -> Outcome:
        name, steps = task.config.name, task.recipe.steps
        if self.interrupt_after is not None and len(trained(self.log)) >= self.interrupt_after:
            raise KeyboardInterrupt
        if name.endswith(self.fails_on):
            raise LabError("diverged for the 4th time")
        if name.endswith(self.kill_on or ("?",)):
            marker = self.log.with_suffix(f".{name.split('=')[-1]}")
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        bonus = self.seed_noise * task.recipe.seed
        for step in range(10, steps + 1, 10):
            time.sleep(self.seconds * 10 / steps)
            watch.progress(step, "toy")
            if step in task.rungs:
                rd = curve(task.config, bonus=bonus - (steps - step) / steps)
                if not watch.rung(step, rd):
                    self._note(name, task.recipe.seed, step)
                    return Outcome(training=None, rd=rd, steps=step)
        self._note(name, task.recipe.seed, steps)
        return Outcome(training=None, rd=curve(task.config, bonus=bonus), steps=steps)

    def _note(self, name: str, seed: int, steps: int) -> None:
        with self.log.open("a") as file:
            file.write(f"{name}\t{seed}\t{steps}\n")


def trained(log: Path) -> list[tuple[str, int, int]]:
    """Return name, seed and steps of every finished training run."""
    if not log.exists():
        return []
    rows = (line.split("\t") for line in log.read_text().splitlines())
    return [(name, int(seed), int(steps)) for name, seed, steps in rows]

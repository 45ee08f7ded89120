"""What a study costs per trial beside counting, training and evaluating its variants.

``nox -s bench`` runs it on an SQLite file with one worker; the figure is recorded, and bounded.
"""

from __future__ import annotations

import time
import zlib
from pathlib import Path
from typing import Any

from tcm_lab._utils.environment import Environment
from tcm_lab.evaluation import ImageResult, RdPoint, RdRecord
from tcm_lab.study.estimators import Outcome, Task, Train, Watch
from tcm_lab.study.prepare import prepare
from tcm_lab.study.run import run_study
from tcm_lab.study.space import Space, load_space

TRIALS = 60
ROUNDS = 2
ALLOWED_S = 0.3


class Nothing:
    """Trains nothing, at once, and tells a quality that follows from the variant's name."""

    def __call__(self, task: Task, watch: Watch) -> Outcome:
        tree = task.config.model_dump(mode="json")
        psnr = 28 + zlib.crc32(task.config.name.encode()) / 2**32
        images = tuple(
            ImageResult(
                name=f"{index}.png", height=256, width=256, bits=40_000, estimated_bits=4e4,
                psnr_db=psnr, ms_ssim=None, encode_ms=1.0, decode_ms=1.0,
            )
            for index in range(24)
        )  # fmt: skip
        rd = RdRecord(
            name=task.config.name,
            model=tree,
            points=tuple(RdPoint(rate=float(rate), images=images) for rate in range(4)),
            data_fingerprint="none",
            environment=Environment(device="none", threads=1, python="3", versions={}),
        )
        return Outcome(training=None, rd=rd, steps=task.recipe.steps)


def bounded() -> Space:
    """Return the largest packaged space, by the plain estimator, since nothing trains."""
    space = load_space("configs/full.yaml")
    budget = space.budget.model_copy(update={"finalists": 0})
    return space.model_copy(update={"budget": budget, "estimator": Train()})


def test_a_trial_costs_little_beside_its_training(benchmark: Any, tmp_path: Path) -> None:
    rounds = iter(range(ROUNDS))
    busy_s: list[float] = []

    def study() -> int:
        begun = time.process_time()
        out = tmp_path / f"study-{next(rounds)}"
        result = run_study(prepare(bounded(), out=out, trials=TRIALS, trainer=Nothing()), 1)
        busy_s.append(time.process_time() - begun)
        return len(result.records)

    assert benchmark.pedantic(study, rounds=ROUNDS) == TRIALS
    per_trial = benchmark.stats.stats.min / TRIALS
    benchmark.extra_info |= {
        "trials": TRIALS,
        "s_per_trial": round(per_trial, 3),
        "processor_s_per_trial": round(min(busy_s) / TRIALS, 3),
        "allowed_s": ALLOWED_S,
    }
    assert min(busy_s) / TRIALS < ALLOWED_S

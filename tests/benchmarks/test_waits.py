"""What users wait for: imports, the first line of help, a model, a count, a check.

``nox -s bench`` runs these; each figure stands beside one of the same run that it can be judged by
(torch's own import, another tool's count), and no test fails for being slow.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
import torch

from tcm_lab import build, load_config, measure_complexity
from tcm_lab.codec import VariantConfig
from tcm_lab.complexity import COUNTERS, Target, check

ROUNDS = 5


def command(*words: str) -> Callable[[], None]:
    return lambda: (
        subprocess.run([sys.executable, *words], capture_output=True, check=True) and None
    )


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def beside(benchmark: Any, work: Callable[[], object], yardstick: Callable[[], object]) -> float:
    """Time ``work`` with ``yardstick`` between its rounds; return the yardstick's median."""
    times: list[float] = []
    benchmark.pedantic(
        work, setup=lambda: times.append(seconds(yardstick)), rounds=ROUNDS, warmup_rounds=1
    )
    return median(times[1:])


@pytest.mark.parametrize(
    "words",
    [
        ("-c", "import torch, tcm_lab"),
        ("-m", "tcm_lab", "--help"),
        ("-m", "tcm_lab", "complexity", "tcm-large"),
        ("-m", "tcm_lab", "complexity", "tcm-large", "--check"),
    ],
    ids=["import", "help", "first table", "check"],
)
def test_a_command_beside_the_import_of_torch(benchmark: Any, words: tuple[str, ...]) -> None:
    torch_s = beside(benchmark, command(*words), command("-c", "import torch"))
    benchmark.extra_info |= {
        "import_torch_s": round(torch_s, 3),
        "over_torch_s": round(benchmark.stats.stats.median - torch_s, 3),
    }


def test_a_large_model_is_built_beside_allocating_its_weights(benchmark: Any) -> None:
    weights = measure_complexity("tcm-large").total_parameters
    plain_s = beside(benchmark, lambda: build("tcm-large"), lambda: torch.rand(weights))
    benchmark.extra_info["random_numbers_s"] = round(plain_s, 3)


def test_a_count_by_formula_beside_fvcore_on_the_same_model(benchmark: Any) -> None:
    target = Target.of("tcm-large")
    fvcore_s = beside(
        benchmark,
        lambda: measure_complexity(target.config, (512, 768)),
        lambda: COUNTERS["fvcore"](target, (512, 768)),
    )
    benchmark.extra_info["ratio"] = round(fvcore_s / benchmark.stats.stats.median, 1)


def test_a_thousand_random_variants_are_counted(benchmark: Any) -> None:
    rng = random.Random(0)
    base = load_config("tcm-small")

    def variant() -> VariantConfig:
        return base.override(
            {
                "g_*.split": rng.choice([0.0, 0.25, 0.5, 0.75, 1.0]),
                "g_*.window_size": rng.choice([4, 8, 16]),
                "entropy_model.slices": rng.choice([4, 5, 8, 10]),
                "entropy_model.attention.squeeze": rng.choice([32, 64, 128]),
            }
        )

    def count() -> int:
        return sum(measure_complexity(variant()).total_parameters > 0 for _ in range(1000))

    assert benchmark.pedantic(count, rounds=2) == 1000


def test_all_counters_agree_beside_one_of_them(benchmark: Any) -> None:
    target = Target.of("tcm-large")
    fvcore_s = beside(
        benchmark,
        lambda: check("tcm-large", strict=True),
        lambda: COUNTERS["fvcore"](target, (512, 768)),
    )
    benchmark.extra_info["fvcore_alone_s"] = round(fvcore_s, 3)

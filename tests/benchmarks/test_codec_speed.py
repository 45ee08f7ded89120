"""How much faster than the plain way: every figure a ratio of times taken in turns, in one run.

``nox -s bench`` runs these; they assert that both ways compute the same and record the ratio in
pytest-benchmark's ``extra_info``. No test here fails for being slow.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from plain import PlainCodec, PlainWindowAttention

import tcm_lab
from tcm_lab.blocks import WindowAttention

ROUNDS = 3
THREADS = min(2, os.cpu_count() or 1)


@pytest.fixture(scope="module")
def codecs() -> tuple[Any, PlainCodec, torch.Tensor]:
    torch.set_num_threads(THREADS)
    # The plain way knows CompressAI's scales alone.
    ours = tcm_lab.build("tcm-small", {"entropy_model.scale_table": "compressai"}).eval()
    x = torch.rand(1, 3, 512, 768, generator=torch.Generator().manual_seed(0))
    return ours, PlainCodec(ours).eval(), x


def test_plain_attention_computes_on_the_device_of_its_input() -> None:
    # Tensors without data stand for a GPU's: they do not mix with a CPU's either.
    ours = WindowAttention(16, 8, 4, shifted=True).to("meta")
    x = torch.empty(1, 8, 12, 16, device="meta")
    assert PlainWindowAttention(ours)(x).shape == ours(x).shape


def take_turns(
    benchmark: Any, ours: Callable[[], Any], plain: Callable[[], Any]
) -> tuple[Any, Any]:
    """Time ``ours`` by the benchmark, ``plain`` between its rounds; return what both gave."""
    plain_s: list[float] = []
    given: list[Any] = []

    def setup() -> None:
        start = time.perf_counter()
        given[:] = [plain()]
        plain_s.append(time.perf_counter() - start)

    with torch.no_grad():
        result = benchmark.pedantic(ours, setup=setup, rounds=ROUNDS, warmup_rounds=1)
    plain_median = statistics.median(plain_s[1:])
    benchmark.extra_info |= {
        "plain_s": round(plain_median, 3),
        "ratio": round(plain_median / benchmark.stats.stats.median, 2),
        "threads": THREADS,
        "model": "tcm-small, 512x768, float32, random weights",
    }
    return result, given[0]


def test_forward_is_the_same_and_faster(benchmark: Any, codecs: Any) -> None:
    ours, plain, x = codecs
    a, b = take_turns(benchmark, lambda: ours(x), lambda: plain(x))
    assert (a["x_hat"] - b["x_hat"]).abs().max() < 1e-4


def test_compress_writes_as_much_and_is_faster(benchmark: Any, codecs: Any) -> None:
    ours, plain, x = codecs
    a, b = take_turns(benchmark, lambda: ours.compress(x), lambda: plain.compress(x))
    for mine, theirs in zip(a["strings"], b["strings"], strict=True):
        assert abs(len(mine[0]) - len(theirs[0])) <= 0.001 * len(theirs[0])


def test_decompress_is_the_same_and_faster(benchmark: Any, codecs: Any) -> None:
    ours, plain, x = codecs
    coded, coded_plainly = ours.compress(x), plain.compress(x)
    a, b = take_turns(
        benchmark,
        lambda: ours.decompress(**coded)["x_hat"],
        lambda: plain.decompress(**coded_plainly),
    )
    assert (a - b).abs().max() < 1e-4

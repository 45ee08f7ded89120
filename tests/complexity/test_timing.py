"""Times: every moment charged once, conditions told, models compared in turns."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom

from tcm_lab.codec import build
from tcm_lab.complexity import (
    TimingOptions,
    TimingRecord,
    check,
    compare_timing,
    measure_complexity,
    measure_device_peak,
    measure_timing,
    timing,
)
from tcm_lab.complexity.timed_codec import Run, Sample, Stopwatch, sample_image
from tcm_lab.complexity.timing import _ratio
from tcm_lab.errors import LabError
from tcm_lab.reporting.tables import timing_table


def test_time_inside_an_inner_stage_is_not_the_outer_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    watch = Stopwatch(torch.device("cpu"))
    with watch.running(), watch.stage("outer"), watch.stage("inner"):
        pass
    # Marks one second apart: other, outer, inner, outer, other; the clock is read outside too.
    assert watch.sample() == (7000.0, {"outer": 2000.0, "inner": 1000.0, "other": 2000.0})


def test_the_marks_of_a_gpu_are_in_its_own_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[object] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: object = "of the current device") -> None:
            recorded.append(stream)

        def elapsed_time(self, later: object) -> float:
            return 1.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"of {device}")
    watch = Stopwatch(torch.device("cuda:1"))
    with watch.running(), watch.stage("outer"):
        pass
    assert recorded == ["of cuda:1"] * 4
    assert watch.sample().stages_ms == {"outer": 1.0, "other": 2.0}


@pytest.fixture(scope="module")
def record() -> TimingRecord:
    return measure_timing("tcm-nano", (128, 128), repeats=5, warm_up=1, threads=1)


def test_the_stages_add_up_to_the_whole(record: TimingRecord) -> None:
    for direction in (record.encode, record.decode):
        assert direction.parts_over_whole == pytest.approx(1, abs=0.02)
        assert direction.stages["other"].median_ms < 0.05 * direction.wall.median_ms


def test_encoding_and_decoding_run_their_own_stages(record: TimingRecord) -> None:
    slices = {f"slices.{i}" for i in range(4)}
    shared = {"h_s", "entropy_coding", "copies", "other"} | slices
    assert set(record.encode.stages) == shared | {"g_a", "h_a"}
    assert set(record.decode.stages) == shared | {"g_s"}


def test_a_record_tells_its_conditions_and_survives_json(record: TimingRecord) -> None:
    assert record.device_type == "cpu"
    assert record.options == TimingOptions(repeats=5, warm_up=1, threads=1)
    assert record.environment.threads == 1
    assert record.encode.wall.n == len(record.encode.samples_ms) == 5
    assert record.encode.megapixels_per_s == pytest.approx(
        128 * 128 / 1e3 / record.encode_ms, rel=1e-6
    )
    assert record.peak_device_memory_bytes is None
    assert TimingRecord.model_validate_json(record.model_dump_json()) == record


def test_the_codec_is_left_as_it_was() -> None:
    codec = build("tcm-nano")
    codec.train()
    codec.h_s.eval()  # frozen, as in fine-tuning
    threads = torch.get_num_threads()
    layouts = [parameter.is_contiguous() for parameter in codec.parameters()]
    measure_timing(codec, (64, 64), repeats=1, warm_up=0, threads=1, channels_last=False)
    assert codec.training
    assert not codec.h_s.training
    assert torch.get_num_threads() == threads
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in codec.modules())
    assert [parameter.is_contiguous() for parameter in codec.parameters()] == layouts
    assert "compress" not in vars(codec.entropy_bottleneck)


def test_half_precision_and_batches_are_timed_by_the_same_record() -> None:
    record = measure_timing(
        "tcm-nano", (64, 64), batch=2, repeats=1, warm_up=0, precision="bfloat16"
    )
    assert (record.options.batch, record.options.precision) == (2, "bfloat16")


def test_compressais_models_are_timed_too_padded_by_us() -> None:
    record = measure_timing(
        "compressai/mbt2018-mean", (70, 100), repeats=1, warm_up=0, channels_last=False
    )
    assert record.padded_size == (128, 128)
    assert {"g_a", "h_a", "h_s", "entropy_coding"} <= set(record.encode.stages)
    assert {"h_s", "g_s", "entropy_coding"} <= set(record.decode.stages)


COMPILED = """
import torch._dynamo
from torch._dynamo.utils import counters
from tcm_lab import load_config
from tcm_lab.complexity import TimingOptions, measure_timing

config = load_config("tcm-nano").override(
    {"?_?.depth": 1, "g_*.width": 16, "entropy_model.slices": 1, "entropy_model.attention": "none"}
)
torch._dynamo.config.recompile_limit = 1  # as if there were more slices than torch expects
# The backend that generates no code: graphs are captured and run all the same.
options = TimingOptions(repeats=1, warm_up=1, compile=True, compile_backend="eager")
record = measure_timing(config, (64, 64), options)
print(record.options.compile, counters["stats"]["unique_graphs"], *record.encode.stages)
"""


def test_compiled_networks_are_timed_with_their_stages() -> None:
    # In a process of its own: the checks of shapes under test cannot be compiled.
    run = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, check=True)
    compiled, graphs, *stages = run.stdout.decode().split()
    assert compiled == "True"
    assert int(graphs) >= 4 + 1  # four transforms, one slice
    assert {"g_a", "slices.0"} <= set(stages)


@pytest.mark.parametrize("model", ["tcm-nano", "compressai/mbt2018-mean"])
def test_portable_streams_are_timed_beside_the_ordinary_ones(model: str) -> None:
    ordinary, portable = compare_timing(
        [model], (64, 64), repeats=2, warm_up=1, portable=True
    ).records
    assert (ordinary.options.portable, portable.options.portable) == (False, True)
    assert portable.model == f"{model} (portable)"
    for way in ("encode", "decode"):
        assert set(getattr(portable, way).stages) >= {"h_s", "entropy_coding"}


def test_models_are_compared_in_turns_by_the_ratio_and_its_interval() -> None:
    told = []
    comparison = compare_timing(
        ["tcm-nano", "tcm-nano-conv-only"],
        (64, 64),
        repeats=4,
        warm_up=1,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert [record.model for record in comparison.records] == ["tcm-nano", "tcm-nano-conv-only"]
    assert [(r.model, r.baseline, r.scope) for r in comparison.ratios] == [
        ("tcm-nano-conv-only", "tcm-nano", "encode"),
        ("tcm-nano-conv-only", "tcm-nano", "decode"),
    ]
    assert all(r.ratio.low <= r.ratio.value <= r.ratio.high for r in comparison.ratios)
    assert told == [(i, 5) for i in range(1, 6)]


def test_the_interval_of_a_ratio_is_that_of_a_median_drawn_again() -> None:
    # A resample's median is at most the k-th of n values when more than half of its draws are.
    n, rng = 2001, np.random.default_rng(1)
    ours, theirs = rng.permutation(np.arange(1.0, n + 1)), np.full(n, 4.0)
    ratio = _ratio(_timed("ours", ours), _timed("theirs", theirs), "decode").ratio
    chance = binom.sf(n // 2, n, np.arange(1, n + 1) / n)
    for end, tail in ((ratio.low, 0.025), (ratio.high, 0.975)):
        rank = 1 + np.searchsorted(chance, tail)
        assert abs(4 * end - rank) <= 4  # of 2,001; an interval of 90 % ends 7 ranks further in
    assert ratio.value == 1001 / 4


def _timed(model: str, samples_ms: Any) -> Any:
    direction = SimpleNamespace(samples_ms=tuple(samples_ms))
    return SimpleNamespace(model=model, encode=None, decode=direction)


def test_a_run_goes_on_for_as_long_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def turn_takes_two_seconds() -> Run:
        clock[0] += 2.0
        return Run(Sample(1200.0, {"g_a": 1200.0}), Sample(800.0, {"g_s": 800.0}))

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(timing, "timed_codec", lambda *_: nullcontext(turn_takes_two_seconds))
    monkeypatch.setattr(timing, "measure_device_peak", lambda *_: None)
    told = []
    record = measure_timing(
        "tcm-nano",
        (64, 64),
        repeats=3,
        seconds=25.0,
        warm_up=2,
        on_progress=lambda done, total: told.append((done, total)),
    )
    # 25 s of turns of 2 s are 13, the warm-up's two not among them.
    assert record.encode.wall.n == 13
    assert record.encode.stages["g_a"].median_ms == 1200
    assert told == [(1, 5), (2, 5), *((i, 15) for i in range(3, 16))]
    record = measure_timing("tcm-nano", (64, 64), repeats=3, seconds=1.0, warm_up=0)
    assert record.encode.wall.n == 3


def test_two_models_of_one_name_are_told_apart_and_keep_their_own_ratios(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits = iter((1.0, 2.0, 4.0))

    def timed(*_: object) -> Any:
        took = next(waits)
        return nullcontext(lambda: Run(Sample(took, {}), Sample(8 * took, {})))

    monkeypatch.setattr(timing, "timed_codec", timed)
    monkeypatch.setattr(timing, "measure_device_peak", lambda *_: None)
    codec = build("tcm-nano")
    found = compare_timing([codec, codec, codec], (64, 64), repeats=1, warm_up=0)
    assert [record.model for record in found.records] == ["tcm-nano", "tcm-nano#2", "tcm-nano#3"]
    table = timing_table(found.records, found.ratios)
    assert table.values_by_column()["decode_ratio"] == [None, 2.0, 4.0]


def test_a_stage_that_a_run_leaves_out_took_no_time_in_it() -> None:
    runs = [Sample(10.0, {"g_a": 6.0, "rans": 4.0}), Sample(6.0, {"g_a": 6.0})]
    direction = timing._coding_time(runs, megapixels=1.0)
    assert direction.stages["rans"].median_ms == pytest.approx(2.0)  # of 4 and 0
    assert direction.parts_over_whole == 1


def test_what_cannot_be_timed_is_refused() -> None:
    with pytest.raises(LabError, match="no weights"):
        measure_timing(build("tcm-nano", device="meta"))
    with pytest.raises(LabError, match="cpu or cuda"):
        measure_timing("tcm-nano", device="meta")
    with pytest.raises(LabError, match="at least two"):
        compare_timing(["tcm-nano"])


def test_a_device_peak_divides_what_was_done_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 0.125)  # read once before a run, twice in it, and once after it
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    device_peak = measure_device_peak()
    assert device_peak.gmacs_per_s == pytest.approx(1024**3 / 0.375 / 1e9, rel=1e-12)
    assert device_peak.gbytes_per_s == pytest.approx(2 * 2**27 / 0.375 / 1e9, rel=1e-12)


def test_the_image_that_is_timed_is_soft_with_a_little_grain_and_always_the_same() -> None:
    image = sample_image((128, 192), 2)
    assert image.shape == (2, 3, 128, 192)
    assert torch.equal(image, sample_image((128, 192), 2))
    assert 0 <= image.min() < 0.1 < 0.9 < image.max() <= 1
    # Second differences cancel what is soft: of white grain they have sqrt(1 + 4 + 1) times its
    # deviation.
    inner = image[..., 1:-1]
    bent = (image[..., 2:] - 2 * inner + image[..., :-2])[(inner > 0.1) & (inner < 0.9)]
    assert bent.std().item() / 6**0.5 == pytest.approx(0.02, rel=0.1)
    assert image[0].mean().item() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("size", [(0, 64), (64, 0), (-1, 64), (64,), 64, (64.5, 64), "64x64"])
def test_a_size_that_is_no_image_is_refused(size: Any) -> None:
    told = r"size = .*: give \(height, width\), two positive integers"
    for measure in (measure_timing, measure_complexity, check):
        with pytest.raises(LabError, match=told):
            measure("tcm-nano", size)  # type: ignore[operator]  # their sum has no one type


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"repeats": 0}, "repeats = 0: .*greater than 0"),
        ({"batch": 0}, "batch = 0: .*greater than 0"),
        ({"warm_up": -1}, "warm_up = -1: must be at least 0"),
        ({"seconds": -1.0}, "seconds = -1.0: must be at least 0"),
        ({"seconds": float("inf")}, r"seconds = inf: must be at most 1e\+06"),
        ({"repeat": 3}, "unknown field 'repeat'. Did you mean repeats"),
    ],
)
def test_nonsense_is_refused_before_anything_is_timed(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(LabError, match=told):
        measure_timing("tcm-nano", (64, 64), **wrong)

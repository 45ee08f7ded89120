"""Times and memory of a GPU: its events against the wall clock, and one model's peak at a time."""

from __future__ import annotations

import pytest
import torch

import tcm_lab
from tcm_lab.complexity import compare_timing, measure_timing
from tcm_lab.complexity.timed_codec import Stopwatch


def test_the_stages_add_up_to_the_whole_and_copies_stand_apart(device: torch.device) -> None:
    record = measure_timing("tcm-nano", (256, 384), device=device, repeats=10)
    assert record.device_type == device.type
    for way in (record.encode, record.decode):
        # The stages are timed by CUDA's events, the whole by the clock.
        assert way.parts_over_whole == pytest.approx(1, abs=0.02)
        assert {"entropy_coding", "copies", "h_s", "slices.0"} <= set(way.stages)
        assert way.stages["entropy_coding"].median_ms > 0
    assert {"g_a", "h_a"} <= set(record.encode.stages)
    assert "g_s" in record.decode.stages


def test_a_kernel_is_charged_to_the_stage_that_launched_it(gpu: torch.device) -> None:
    a = torch.rand(8192, 8192, device=gpu)
    watch = Stopwatch(gpu)
    for _ in range(3):
        with watch.running():
            with watch.stage("products"):
                for _ in range(4):
                    a @ a
            with watch.stage("nothing"):
                pass
    sample = watch.sample()
    assert sample.stages_ms["products"] > 0.9 * sample.wall_ms
    assert sample.stages_ms["nothing"] < 0.05 * sample.wall_ms


def test_peak_memory_is_each_models_own(gpu: torch.device) -> None:
    def peak(name: str, size: tuple[int, int]) -> int:
        found = measure_timing(name, size, device=gpu, repeats=2).peak_device_memory_bytes
        assert found is not None
        return found

    large, small = peak("tcm-small", (512, 768)), peak("tcm-nano", (128, 128))
    weights = 4 * sum(p.numel() for p in tcm_lab.build("tcm-small").parameters())
    assert large > weights
    assert small < large / 4
    beside = compare_timing(["tcm-small", "tcm-nano"], (128, 128), device=gpu, repeats=2)
    assert beside.records[1].peak_device_memory_bytes == pytest.approx(small, rel=0.05)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_a_record_says_the_precision_and_the_peak_that_belongs_to_it(
    gpu: torch.device, precision: str
) -> None:
    record = measure_timing("tcm-nano", (128, 128), device=gpu, repeats=2, precision=precision)
    assert record.options.precision == precision
    assert record.device_peak is not None
    assert record.environment.device == torch.cuda.get_device_name(gpu)


def test_tensor_cores_multiply_faster_than_float32(gpu: torch.device) -> None:
    from tcm_lab.complexity import measure_device_peak

    exact, short, half = (
        measure_device_peak(gpu, precision).gmacs_per_s
        for precision in ("float32", "tf32", "bfloat16")
    )
    assert exact < short < half

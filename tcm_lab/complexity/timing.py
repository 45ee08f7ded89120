"""Measure how long coding takes, stage by stage and with its conditions.

Encoding and decoding are timed separately, on real bytes, after a warm-up, and every moment is
charged to a stage. Times of different runs are not comparable: `compare_timing` takes turns within
one run. Other work on the machine comes and goes over seconds, so a few repetitions in a row all
see the same load. A median is repeatable only if the run lasts longer, which ``seconds`` ensures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from statistics import median
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from tcm_lab import codec
from tcm_lab._compat.malloc import keep_freed_memory
from tcm_lab._utils.devices import Precision, arithmetic, checked_device
from tcm_lab._utils.environment import environment
from tcm_lab._utils.numbered import numbered
from tcm_lab._utils.progress import OnDone
from tcm_lab.codec import CodecAdapter
from tcm_lab.codec.adapter import unwrapped
from tcm_lab.codec.inputs import sides_of
from tcm_lab.complexity.target import Measurable
from tcm_lab.complexity.timed_codec import Run, Sample, Stopwatch, timed_codec
from tcm_lab.complexity.timing_record import (
    CodingTime,
    DevicePeak,
    Direction,
    Spread,
    TimeRatio,
    TimingComparison,
    TimingOptions,
    TimingRecord,
)
from tcm_lab.errors import LabError
from tcm_lab.stats import Draw, bootstrap

_RESAMPLES = 2000
_SIDE = {"cpu": 1024, "cuda": 8192}
_COPIED_BYTES = {"cpu": 2**27, "cuda": 2**30}  # beyond any cache, and longer than a launch
_BUDGET_MS = 150.0
_LEAST_RUNS = 4  # the first warms up


def measure_timing(
    model: Measurable,
    size: tuple[int, int] = (512, 768),
    options: TimingOptions | None = None,
    *,
    on_progress: OnDone | None = None,
    **changes: Any,
) -> TimingRecord:
    """Time encoding to real bytes and decoding them, stage by stage.

    Args:
        model: a codec with its weights, or the name of one, which is built with random weights (and
            entropy coding then codes the latents that they give).
        size: (height, width) of the image, before padding.
        options: the conditions; by default those of `TimingOptions`.
        on_progress: called with (repetitions done, all repetitions), warm-up included.
        **changes: fields of `TimingOptions` to change, such as ``device="cuda"``.

    Raises:
        LabError: the model has no weights (meta device), or an option is invalid.
    """
    (record,) = _time_in_turns([model], size, [_changed(options, changes)], on_progress)
    return record


def compare_timing(
    models: Sequence[Measurable],
    size: tuple[int, int] = (512, 768),
    options: TimingOptions | None = None,
    *,
    on_progress: OnDone | None = None,
    **changes: Any,
) -> TimingComparison:
    """Time models in turns, and return their records and the ratios to the first.

    Arguments are those of `measure_timing`, but for several models. With ``portable``, each model's
    portable streams are timed as well as its ordinary ones; then one model is enough. ``#2`` marks
    the second model with the same name.

    Raises:
        LabError: there is nothing to compare, or a model cannot be timed.
    """
    requested = _changed(options, changes)
    conditions = [requested.model_copy(update={"portable": False})]
    if requested.portable:
        conditions.append(requested)
    if len(models) * len(conditions) < 2:
        raise LabError(f"need at least two models to compare, not {len(models)}")
    records = _time_in_turns(models, size, conditions, on_progress)
    baseline, *others = records
    ratios = [_ratio(other, baseline, scope) for other in others for scope in get_args(Direction)]
    return TimingComparison(records=tuple(records), ratios=tuple(ratios))


def _changed(options: TimingOptions | None, changes: Mapping[str, Any]) -> TimingOptions:
    return TimingOptions.parse({**(options or TimingOptions()).model_dump(), **changes})


def _ratio(record: TimingRecord, baseline: TimingRecord, scope: Direction) -> TimeRatio:
    ours = np.asarray(getattr(record, scope).samples_ms)
    theirs = np.asarray(getattr(baseline, scope).samples_ms)

    def ratio(draw: Draw) -> Any:
        # The same turns are drawn for both, since a disturbance of a turn affects both.
        turns = draw["turns"]
        return np.median(ours[turns], axis=-1) / np.median(theirs[turns], axis=-1)

    return TimeRatio(
        model=record.model,
        baseline=baseline.model,
        scope=scope,
        ratio=bootstrap(ratio, {"turns": len(ours)}, samples=_RESAMPLES, vectorized=True),
    )


def _time_in_turns(
    models: Sequence[Measurable],
    size: tuple[int, int],
    conditions: Sequence[TimingOptions],
    on_progress: OnDone | None,
) -> list[TimingRecord]:
    """Time models, each under all conditions, in turns, so that disturbances affect all alike."""
    size, options = sides_of("size", size), conditions[0]
    keep_freed_memory()
    with ExitStack() as stack:
        if options.threads is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(options.threads)
        adapters = [_with_weights(model) for model in models]
        names = numbered(map(_name, models, adapters))
        for adapter in adapters:
            stack.callback(adapter.module.to, adapter.device)
            adapter.module.to(checked_device(options.device or adapter.device))
        timed = [
            (name, adapter, each)
            for name, adapter in zip(names, adapters, strict=True)
            for each in conditions
        ]
        codecs = [
            stack.enter_context(timed_codec(adapter, size, each)) for _, adapter, each in timed
        ]
        runs: list[list[Run]] = [[] for _ in codecs]
        for turn in _turns(options, on_progress):
            # Each turn begins with another model, so that none is always first.
            for i in ((turn + k) % len(codecs) for k in range(len(codecs))):
                run = codecs[i]()
                if turn >= options.warm_up:
                    runs[i].append(run)
        measured_at = datetime.now(UTC).isoformat(timespec="seconds")
        devices = {adapter.device for adapter in adapters}
        device_peaks = {
            device: measure_device_peak(device, options.precision) for device in devices
        }
        megapixels = options.batch * size[0] * size[1] / 1e6
        return [
            TimingRecord(
                model=f"{name} (portable)" if each.portable else name,
                fingerprint=adapter.fingerprint,
                size=size,
                padded_size=adapter.padded_size(size),
                device_type="cuda" if adapter.device.type == "cuda" else "cpu",
                options=each,
                encode=_coding_time([run.encode for run in own], megapixels),
                decode=_coding_time([run.decode for run in own], megapixels),
                peak_device_memory_bytes=max(
                    (run.peak_bytes for run in own if run.peak_bytes is not None), default=None
                ),
                device_peak=device_peaks[adapter.device],
                environment=environment(adapter.device),
                measured_at=measured_at,
            )
            for (name, adapter, each), own in zip(timed, runs, strict=True)
        ]


def _turns(options: TimingOptions, on_progress: OnDone | None) -> Iterator[int]:
    """Count turns, the warm-up first, until there are ``repeats`` and ``seconds`` have passed."""
    warm_up = options.warm_up
    start, total, turn = time.perf_counter(), warm_up + options.repeats, 0
    while turn < total:
        if turn == warm_up:
            start = time.perf_counter()
        yield turn
        turn += 1
        passed = time.perf_counter() - start
        if turn > warm_up and options.seconds > 0:
            enough = math.ceil((turn - warm_up) * options.seconds / passed)
            total = warm_up + max(options.repeats, enough)
        if on_progress is not None:
            on_progress(turn, total)


def _coding_time(samples: Sequence[Sample], megapixels: float) -> CodingTime:
    walls = tuple(sample.wall_ms for sample in samples)
    names = dict.fromkeys(name for sample in samples for name in sample.stages_ms)
    return CodingTime(
        wall=Spread.of(walls),
        stages={
            name: Spread.of([sample.stages_ms.get(name, 0.0) for sample in samples])
            for name in names
        },
        megapixels_per_s=1e3 * megapixels / median(walls),
        samples_ms=walls,
        parts_over_whole=median(sum(s.stages_ms.values()) / s.wall_ms for s in samples),
    )


def measure_device_peak(
    device: torch.device | str = "cpu", precision: Precision = "float32"
) -> DevicePeak:
    """Measure a device's peak: the fastest of several products and copies.

    This takes less than a second on a CPU.

    Args:
        device: ``cpu``, with torch's current number of threads, or ``cuda``.
        precision: arithmetic of the matrix product.
    """
    device = torch.device(device)
    side, copied = _SIDE[device.type], _COPIED_BYTES[device.type]
    dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)
    generator = torch.Generator(device).manual_seed(0)
    a, b = torch.rand(2, side, side, generator=generator, device=device, dtype=dtype)
    product = torch.empty_like(a)
    source = torch.empty(copied, dtype=torch.uint8, device=device).zero_()
    target = torch.empty_like(source).zero_()  # written once, so that its pages exist
    with torch.no_grad(), arithmetic("tf32" if precision == "tf32" else "float32", device):
        product_ms = _fastest_ms(device, lambda: torch.mm(a, b, out=product))
        copy_ms = _fastest_ms(device, lambda: target.copy_(source))
    return DevicePeak(
        gmacs_per_s=side**3 / product_ms / 1e6, gbytes_per_s=2 * copied / copy_ms / 1e6
    )


def _fastest_ms(device: torch.device, work: Callable[[], object]) -> float:
    watch, times = Stopwatch(device), list[float]()
    while len(times) < _LEAST_RUNS or sum(times) < _BUDGET_MS:
        with watch.running():
            work()
        times.append(watch.sample().wall_ms)
    return min(times)


def _with_weights(model: Measurable) -> CodecAdapter:
    """Return a codec with weights."""
    adapter = CodecAdapter(unwrapped(model) if isinstance(model, nn.Module) else codec.build(model))
    if any(parameter.is_meta for parameter in adapter.module.parameters()):
        raise LabError(
            "this model is on the meta device and has no weights; build it on a real device"
        )
    return adapter


def _name(model: Measurable, adapter: CodecAdapter) -> str:
    """Return a codec's name in tables."""
    return model if isinstance(model, str) and codec.is_reference(model) else adapter.name

"""How long coding takes, where, and under which conditions.

Encoding and decoding are timed apart, on real bytes, after a warm-up, and every moment is charged
to a stage. Times of different runs do not compare: `compare_timing` takes turns within one run.
What else the machine does comes and goes over seconds, so a few repetitions in a row all see the
same of it: a median repeats only if the run outlasts that, which ``seconds`` asks for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from statistics import median, quantiles
from typing import Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import nn

from tcm_lab import codec as _codec
from tcm_lab._compat.malloc import keep_freed_memory
from tcm_lab._utils import Frozen
from tcm_lab._utils.environment import Environment, environment
from tcm_lab._utils.progress import OnDone
from tcm_lab.complexity._bench import Bench, Precision, Sample
from tcm_lab.complexity.device_peak import DevicePeak, measure_device_peak
from tcm_lab.complexity.record import Size
from tcm_lab.complexity.stopwatch import OTHER
from tcm_lab.complexity.target import Measurable, Target
from tcm_lab.errors import LabError

"""Called with the repetitions that are done and those there are in all, warm-up included."""


class Spread(Frozen):
    """A time in milliseconds over all repetitions."""

    lower_quartile_ms: NonNegativeFloat
    median_ms: NonNegativeFloat
    upper_quartile_ms: NonNegativeFloat
    n: PositiveInt

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> Spread:
        """Return median and quartiles of ``samples_ms``."""
        samples = list(samples_ms)
        lower, _, upper = (
            quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
        )
        return cls(
            lower_quartile_ms=lower,
            median_ms=median(samples),
            upper_quartile_ms=upper,
            n=len(samples),
        )


class DirectionTiming(Frozen):
    """Encoding, or decoding.

    Attributes:
        wall: whole time by the wall clock, the device synchronised before and after.
        stages: time of each stage, by CUDA events on a GPU and by the same clock on a CPU;
            ``entropy_coding`` and ``copies`` between host and device among them, and ``other``
            for what no stage claims.
        megapixels_per_s: throughput at the median, over all images of the batch, unpadded.
        samples_ms: wall time of every repetition, in order.
        parts_over_whole: the sum of a repetition's stages over its wall time, at the median. On a
            GPU this is what reconciles CUDA's events with the wall clock.
    """

    wall: Spread
    stages: dict[str, Spread]
    megapixels_per_s: NonNegativeFloat
    samples_ms: tuple[NonNegativeFloat, ...]
    parts_over_whole: NonNegativeFloat

    @property
    def other_share(self) -> float:
        """The share of the whole that no stage claims."""
        return self.stages[OTHER].median_ms / self.wall.median_ms


class TimingRecord(Frozen):
    """How long one model takes on one image size, and everything that it depends on.

    Attributes:
        model: name of the model.
        fingerprint: of its configuration.
        size: (height, width) of the image.
        padded_size: (height, width) that the networks see.
        batch: images coded at once.
        device_type: ``cpu`` or ``cuda``.
        precision: arithmetic of the networks.
        channels_last: whether channels are last in memory.
        compiled: whether the networks were compiled.
        warm_up: runs before the first that counts.
        encode: from image to bytes.
        decode: from bytes to image.
        peak_device_memory_bytes: on a GPU, of all runs that count, weights included.
        roof: what the device allows under the same conditions, measured in the same run.
        environment: device, threads, versions.
        measured_at: when, in UTC (ISO 8601).
    """

    model: str
    fingerprint: str
    size: Size
    padded_size: Size
    batch: PositiveInt
    device_type: Literal["cpu", "cuda"]
    precision: Precision
    channels_last: bool
    compiled: bool
    warm_up: NonNegativeInt
    encode: DirectionTiming
    decode: DirectionTiming
    peak_device_memory_bytes: NonNegativeInt | None
    device_peak: DevicePeak | None = None
    environment: Environment
    measured_at: str

    @property
    def encode_ms(self) -> float:
        """Median wall time of encoding."""
        return self.encode.wall.median_ms

    @property
    def decode_ms(self) -> float:
        """Median wall time of decoding."""
        return self.decode.wall.median_ms


def measure_timing(
    model: Measurable,
    size: tuple[int, int] = (512, 768),
    *,
    batch: int = 1,
    repeats: int = 20,
    seconds: float = 0.0,
    warm_up: int = 3,
    device: str | torch.device | None = None,
    precision: Precision = "float32",
    threads: int | None = None,
    channels_last: bool = True,
    compile: bool = False,
    on_progress: OnDone | None = None,
) -> TimingRecord:
    """Time encoding to real bytes and decoding them, stage by stage.

    Args:
        model: a codec with its weights, or what names one (built with random weights; entropy
            coding then codes what such weights give).
        size: (height, width) of the image, before padding.
        batch: images coded at once.
        repeats: runs that count, at least.
        seconds: how long they go on, at least.
        warm_up: runs before them.
        device: ``cpu`` or ``cuda``; None is where the model is.
        precision: arithmetic of the networks, by autocast.
        threads: of torch on the CPU; None leaves them.
        channels_last: whether channels are last in memory.
        compile: whether to compile the networks first (minutes, once).
        on_progress: told how far it is.

    Raises:
        LabError: the model has no weights (meta device), or an argument makes no sense.
    """
    (record,) = time_interleaved(
        [model],
        size,
        batch=batch,
        repeats=repeats,
        seconds=seconds,
        warm_up=warm_up,
        device=device,
        precision=precision,
        threads=threads,
        channels_last=channels_last,
        compile=compile,
        on_progress=on_progress,
    )
    return record


def time_interleaved(
    models: Sequence[Measurable],
    size: tuple[int, int],
    *,
    batch: int,
    repeats: int,
    seconds: float,
    warm_up: int,
    device: str | torch.device | None,
    precision: Precision,
    threads: int | None,
    channels_last: bool,
    compile: bool,
    on_progress: OnDone | None,
) -> list[TimingRecord]:
    """Time several models in turns, so that whatever disturbs the machine disturbs them all.

    Arguments and errors are those of `measure_timing`.
    """
    _refuse_nonsense(
        size, batch=batch, repeats=repeats, seconds=seconds, warm_up=warm_up, threads=threads
    )
    keep_freed_memory()
    with ExitStack() as stack:
        stack.enter_context(_threads(threads))
        benches = []
        for model in models:
            network, target = _with_weights(model)
            stack.enter_context(_moved(network, device))
            bench = Bench(
                network,
                target,
                size,
                batch=batch,
                precision=precision,
                channels_last=channels_last,
            )
            stack.enter_context(bench.ready(compiled=compile))
            benches.append(bench)
        runs: list[list[tuple[Sample, Sample]]] = [[] for _ in benches]
        peaks: list[int | None] = [None] * len(benches)
        for turn in _turns(warm_up, repeats, seconds, on_progress):
            # Each turn begins with another model, so that none is always first.
            for i in ((turn + k) % len(benches) for k in range(len(benches))):
                run, peak = _run(benches[i])
                if turn >= warm_up:
                    runs[i].append(run)
                    peaks[i] = peak if peak is None else max(peak, peaks[i] or 0)
        measured_at = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")
        device_peaks = {b.device: measure_device_peak(b.device, precision) for b in benches}
        megapixels = batch * size[0] * size[1] / 1e6
        return [
            TimingRecord(
                model=bench.target.name,
                fingerprint=bench.target.fingerprint,
                size=size,
                padded_size=bench.target.padded_size(size),
                batch=batch,
                device_type="cuda" if bench.device.type == "cuda" else "cpu",
                precision=precision,
                channels_last=channels_last,
                compiled=compile,
                warm_up=warm_up,
                encode=_direction([encoded for encoded, _ in samples], megapixels),
                decode=_direction([decoded for _, decoded in samples], megapixels),
                peak_device_memory_bytes=peak,
                device_peak=device_peaks[bench.device],
                environment=environment(bench.device),
                measured_at=measured_at,
            )
            for bench, samples, peak in zip(benches, runs, peaks, strict=True)
        ]


def _turns(warm_up: int, repeats: int, seconds: float, on_progress: OnDone | None) -> Iterator[int]:
    """Count turns, the warm-up first, until there are ``repeats`` and ``seconds`` have passed."""
    start, total, turn = time.perf_counter(), warm_up + repeats, 0
    while turn < total:
        if turn == warm_up:
            start = time.perf_counter()
        yield turn
        turn += 1
        passed = time.perf_counter() - start
        if turn > warm_up and seconds > 0:
            total = warm_up + max(repeats, math.ceil((turn - warm_up) * seconds / passed))
        if on_progress is not None:
            on_progress(turn, total)


def _run(bench: Bench) -> tuple[tuple[Sample, Sample], int | None]:
    """Run once; return the samples, and the peak memory of a GPU."""
    if bench.device.type != "cuda":
        return bench.once(), None
    torch.cuda.reset_peak_memory_stats(bench.device)
    samples = bench.once()
    return samples, torch.cuda.max_memory_allocated(bench.device)


def _direction(samples: Sequence[Sample], megapixels: float) -> DirectionTiming:
    walls = tuple(sample.wall_ms for sample in samples)
    names: Mapping[str, None] = {name: None for sample in samples for name in sample.stages_ms}
    return DirectionTiming(
        wall=Spread.of(walls),
        stages={
            name: Spread.of([sample.stages_ms.get(name, 0.0) for sample in samples])
            for name in names
        },
        megapixels_per_s=1e3 * megapixels / median(walls),
        samples_ms=walls,
        parts_over_whole=median(sum(s.stages_ms.values()) / s.wall_ms for s in samples),
    )


def _with_weights(model: Measurable) -> tuple[nn.Module, Target]:
    network = model if isinstance(model, nn.Module) else _codec.build(model)
    if any(parameter.is_meta for parameter in network.parameters()):
        raise LabError(
            "this model is on the meta device and has no weights; build it on a real one"
        )
    return network, Target.of(model if isinstance(model, str) else network)


@contextmanager
def _moved(model: nn.Module, device: str | torch.device | None) -> Iterator[None]:
    """Move a model to ``device`` and back again."""
    home = next(model.parameters()).device
    target = home if device is None else torch.device(device)
    if target.type not in ("cpu", "cuda"):
        raise LabError(f"device = {target}: times are taken on cpu or cuda")
    if target.type == "cuda" and not torch.cuda.is_available():
        raise LabError(f"device = {target}: torch finds no GPU here; use cpu")
    model.to(target)
    try:
        yield
    finally:
        model.to(home)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _refuse_nonsense(size: tuple[int, int], *, seconds: float, **counts: int | None) -> None:
    if not 0 <= seconds < math.inf:
        raise LabError(f"seconds = {seconds} is no time to go on for; give 0 or more")
    if len(size) != 2 or min(size) < 1:
        raise LabError(f"size = {size} is no image; give (height, width), both at least 1")
    for name, count in counts.items():
        least = 0 if name == "warm_up" else 1
        if count is not None and count < least:
            raise LabError(f"{name} = {count} is too few; give at least {least}")

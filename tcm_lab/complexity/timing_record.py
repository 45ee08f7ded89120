"""Coding times: one frozen record per model, and the ratios of models timed in turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from tcm_lab._utils import Frozen
from tcm_lab._utils.devices import Precision
from tcm_lab._utils.environment import Environment
from tcm_lab.complexity.record import Size
from tcm_lab.stats import Interval

if TYPE_CHECKING:
    from pandas import DataFrame

Direction = Literal["encode", "decode"]
CompileBackend = Literal["inductor", "cudagraphs", "eager"]


class TimingOptions(Frozen):
    """The conditions of a timing run.

    Attributes:
        device: ``cpu`` or ``cuda``; None: where the model is.
        precision: arithmetic of the networks: float32 (on a GPU without TF32), tf32, or 16 bits by
            autocast.
        threads: torch's threads on the CPU; None: unchanged.
        batch: images coded at once.
        repeats: measured runs, at least.
        seconds: duration of the measured runs, at least.
        warm_up: runs before the measured ones.
        channels_last: whether channels are last in memory.
        compile: whether to compile the networks first (minutes, once).
        compile_backend: backend of `torch.compile`: ``inductor``, which writes kernels of its own;
            ``cudagraphs``, which records the launches of torch's kernels on a GPU and replays them;
            or ``eager``, which only captures graphs.
        portable: whether streams are portable; a comparison then times both kinds of each model.
    """

    device: str | None = None
    precision: Precision = "float32"
    threads: int | None = Field(default=None, gt=0, le=2**12)
    batch: int = Field(default=1, gt=0, le=2**16)
    repeats: int = Field(default=20, gt=0, le=10**6)
    seconds: float = Field(default=0.0, ge=0, le=1e6)
    warm_up: int = Field(default=3, ge=0, le=10**6)
    channels_last: bool = True
    compile: bool = False
    compile_backend: CompileBackend = "inductor"
    portable: bool = False

    @field_validator("device", mode="before")
    @classmethod
    def _name_device(cls, device: Any) -> str | None:
        return None if device is None else str(device)


class Spread(Frozen):
    """Quartiles of a time in milliseconds over all repetitions."""

    lower_quartile_ms: NonNegativeFloat
    median_ms: NonNegativeFloat
    upper_quartile_ms: NonNegativeFloat
    n: PositiveInt

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> Spread:
        """Return median and quartiles of ``samples_ms``."""
        lower, middle, upper = np.quantile(samples_ms, [0.25, 0.5, 0.75]).tolist()
        return cls(
            lower_quartile_ms=lower, median_ms=middle, upper_quartile_ms=upper, n=len(samples_ms)
        )


class DevicePeak(Frozen):
    """The measured peak performance of a device.

    Attributes:
        gmacs_per_s: multiply-accumulates of one large square matrix product, in billions a second.
        gbytes_per_s: bytes that one large copy reads and writes, in billions a second.
    """

    gmacs_per_s: PositiveFloat
    gbytes_per_s: PositiveFloat


class CodingTime(Frozen):
    """Encoding, or decoding.

    Attributes:
        wall: whole time by the wall clock, the device synchronised before and after.
        stages: time of each stage, by CUDA events on a GPU and by the same clock on a CPU. They
            include ``entropy_coding``, ``copies`` between host and device, and ``other`` for the
            rest.
        megapixels_per_s: throughput at the median, over all images of the batch, unpadded.
        samples_ms: wall time of every repetition, in order.
        parts_over_whole: the sum of a repetition's stages over its wall time, at the median. On a
            GPU it compares CUDA's events with the wall clock.
    """

    wall: Spread
    stages: dict[str, Spread]
    megapixels_per_s: NonNegativeFloat
    samples_ms: tuple[NonNegativeFloat, ...]
    parts_over_whole: NonNegativeFloat


class TimingRecord(Frozen):
    """Coding times of one model at one image size, and all conditions that they depend on.

    Attributes:
        model: name of the model.
        fingerprint: fingerprint of its configuration.
        size: (height, width) of the image.
        padded_size: (height, width) that the networks see.
        device_type: ``cpu`` or ``cuda``.
        options: the requested conditions.
        encode: from image to bytes.
        decode: from bytes to image.
        peak_device_memory_bytes: peak of all measured runs on a GPU, weights included, for this
            model alone; None on a CPU.
        device_peak: peak performance of the device under the same conditions, in the same run.
        environment: device, threads, versions.
        measured_at: time of the measurement, in UTC (ISO 8601).
    """

    model: str
    fingerprint: str
    size: Size
    padded_size: Size
    device_type: Literal["cpu", "cuda"]
    options: TimingOptions
    encode: CodingTime
    decode: CodingTime
    peak_device_memory_bytes: NonNegativeInt | None
    device_peak: DevicePeak | None = None
    environment: Environment
    measured_at: str

    def to_frame(self) -> DataFrame:
        """Return the record as a pandas data frame: one row per direction and stage."""
        from pandas import DataFrame

        return DataFrame(
            {"model": self.model, "direction": direction, "stage": stage, **spread.model_dump()}
            for direction, coding in (("encode", self.encode), ("decode", self.decode))
            for stage, spread in {**coding.stages, "whole": coding.wall}.items()
        )

    @property
    def encode_ms(self) -> float:
        """Median wall time of encoding."""
        return self.encode.wall.median_ms

    @property
    def decode_ms(self) -> float:
        """Median wall time of decoding."""
        return self.decode.wall.median_ms


class TimeRatio(Frozen):
    """One model's median wall time over the first model's, which is the baseline.

    Attributes:
        ratio: the ratio, above 1 if slower than the baseline; bootstrapped over common turns.
    """

    model: str
    baseline: str
    scope: Direction
    ratio: Interval


class TimingComparison(Frozen):
    """Several models timed in turns within one run, and the ratios of all others to the first."""

    records: tuple[TimingRecord, ...]
    ratios: tuple[TimeRatio, ...]

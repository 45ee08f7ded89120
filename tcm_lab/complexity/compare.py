"""Which of several models is faster, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt

from tcm_lab._utils import Frozen
from tcm_lab._utils.progress import OnDone
from tcm_lab.complexity._bench import Precision
from tcm_lab.complexity.target import Measurable
from tcm_lab.complexity.timing import TimingRecord, time_interleaved
from tcm_lab.errors import LabError

_RESAMPLES = 2000
_COVERAGE = 0.95


class TimeRatio(Frozen):
    """One model's median wall time over the first model's, with its interval.

    Attributes:
        model: the model that is compared.
        baseline: the first model.
        direction: ``encode`` or ``decode``.
        ratio: above 1 is slower than the baseline.
        lower: lower end of the interval.
        upper: upper end of the interval.
        coverage: of the interval, by a bootstrap over the turns that both took.
        n: turns.
    """

    model: str
    baseline: str
    direction: Literal["encode", "decode"]
    ratio: PositiveFloat
    lower: PositiveFloat
    upper: PositiveFloat
    coverage: PositiveFloat
    n: PositiveInt


class TimingComparison(Frozen):
    """Several models timed in turns within one run.

    Attributes:
        records: each model's own times.
        ratios: each further model's times over the first one's, encoding and decoding.
    """

    records: tuple[TimingRecord, ...]
    ratios: tuple[TimeRatio, ...]


def compare_timing(
    models: Sequence[Measurable],
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
) -> TimingComparison:
    """Time models in turns, and return their records and the ratios to the first.

    Arguments are those of `measure_timing`, but for several models.

    Raises:
        LabError: there are fewer than two models, or one cannot be timed.
    """
    if len(models) < 2:
        raise LabError(f"{len(models)} model is nothing to compare; give at least two")
    records = time_interleaved(
        models,
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
    baseline, *others = records
    directions: tuple[Literal["encode", "decode"], ...] = ("encode", "decode")
    ratios = [_ratio(other, baseline, way) for other in others for way in directions]
    return TimingComparison(records=tuple(records), ratios=tuple(ratios))


def _ratio(
    record: TimingRecord, baseline: TimingRecord, direction: Literal["encode", "decode"]
) -> TimeRatio:
    ours = np.asarray(getattr(record, direction).samples_ms)
    theirs = np.asarray(getattr(baseline, direction).samples_ms)
    # The same turns are drawn for both: what disturbed a turn disturbed both.
    turns = np.random.default_rng(0).integers(0, len(ours), (_RESAMPLES, len(ours)))
    resampled = np.median(ours[turns], axis=1) / np.median(theirs[turns], axis=1)
    tail = (1 - _COVERAGE) / 2
    lower, upper = np.quantile(resampled, [tail, 1 - tail])
    return TimeRatio(
        model=record.model,
        baseline=baseline.model,
        direction=direction,
        ratio=float(np.median(ours) / np.median(theirs)),
        lower=float(lower),
        upper=float(upper),
        coverage=_COVERAGE,
        n=len(ours),
    )

from .counters import COUNTERS, Count
from .cross_check import CheckReport, CounterCheck, check
from .directions import UncountedWarning
from .measure import measure_complexity
from .memory import peak_memory
from .published import (
    Explanation,
    PublishedFigure,
    Reading,
    explain,
    explain_figure,
    published_figures,
)
from .record import CONVENTIONS, SCOPES, ComplexityRecord, Convention, Scope
from .target import Measurable, Target
from .timing import compare_timing, measure_device_peak, measure_timing
from .timing_record import (
    CodingTime,
    CompileBackend,
    DevicePeak,
    Spread,
    TimeRatio,
    TimingComparison,
    TimingOptions,
    TimingRecord,
)

__all__ = [
    "CONVENTIONS",
    "COUNTERS",
    "SCOPES",
    "CheckReport",
    "CodingTime",
    "CompileBackend",
    "ComplexityRecord",
    "Convention",
    "Count",
    "CounterCheck",
    "DevicePeak",
    "Explanation",
    "Measurable",
    "PublishedFigure",
    "Reading",
    "Scope",
    "Spread",
    "Target",
    "TimeRatio",
    "TimingComparison",
    "TimingOptions",
    "TimingRecord",
    "UncountedWarning",
    "check",
    "compare_timing",
    "explain",
    "explain_figure",
    "measure_complexity",
    "measure_device_peak",
    "measure_timing",
    "peak_memory",
    "published_figures",
]

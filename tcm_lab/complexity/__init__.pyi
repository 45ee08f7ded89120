from .compare import TimeRatio, TimingComparison, compare_timing
from .counters import COUNTERS, Count
from .cross_check import CheckReport, CounterCheck, Difference, check
from .device_peak import DevicePeak, measure_device_peak
from .measure import UncountedWarning, measure_complexity
from .memory import peak_memory
from .published import (
    Explanation,
    PublishedFigure,
    explain,
    explain_figure,
    published_figures,
)
from .record import CONVENTIONS, SCOPES, ComplexityRecord, Convention, Scope
from .target import Measurable, Target
from .timing import DirectionTiming, Spread, TimingRecord, measure_timing

__all__ = [
    "CONVENTIONS",
    "COUNTERS",
    "SCOPES",
    "CheckReport",
    "ComplexityRecord",
    "Convention",
    "Count",
    "CounterCheck",
    "DevicePeak",
    "Difference",
    "DirectionTiming",
    "Explanation",
    "Measurable",
    "PublishedFigure",
    "Scope",
    "Spread",
    "Target",
    "TimeRatio",
    "TimingComparison",
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

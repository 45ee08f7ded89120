"""What a codec costs: counts by four counters, memory, and times; each as a record of its own."""

from tcm_lab.complexity.check import CheckReport, CounterCheck, Difference, check
from tcm_lab.complexity.compare import TimeRatio, TimingComparison, compare_timing
from tcm_lab.complexity.device_peak import DevicePeak, measure_device_peak
from tcm_lab.complexity.explain import Explanation, PublishedFigure, explain, published_figures
from tcm_lab.complexity.measure import COUNTERS, UncountedWarning, measure_complexity
from tcm_lab.complexity.memory import peak_memory
from tcm_lab.complexity.record import CONVENTIONS, DIRECTIONS, ComplexityRecord, View
from tcm_lab.complexity.timing import DirectionTiming, Spread, TimingRecord, measure_timing

__all__ = [
    "CONVENTIONS",
    "COUNTERS",
    "DIRECTIONS",
    "CheckReport",
    "ComplexityRecord",
    "CounterCheck",
    "DevicePeak",
    "Difference",
    "DirectionTiming",
    "Explanation",
    "PublishedFigure",
    "Spread",
    "TimeRatio",
    "TimingComparison",
    "TimingRecord",
    "UncountedWarning",
    "View",
    "check",
    "compare_timing",
    "explain",
    "measure_complexity",
    "measure_device_peak",
    "measure_timing",
    "peak_memory",
    "published_figures",
]

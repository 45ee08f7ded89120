"""What a codec costs: counts by four counters, memory, and times; each as a record of its own."""

from tcm_lab.complexity.check import CheckReport, CounterCheck, Difference, check
from tcm_lab.complexity.measure import UncountedWarning, measure_complexity
from tcm_lab.complexity.record import CONVENTIONS, ComplexityRecord, View

__all__ = [
    "CONVENTIONS",
    "CheckReport",
    "ComplexityRecord",
    "CounterCheck",
    "Difference",
    "UncountedWarning",
    "View",
    "check",
    "measure_complexity",
]

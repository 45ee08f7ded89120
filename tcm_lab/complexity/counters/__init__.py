"""The counters by name; each is a function of a target and a padded image size."""

from __future__ import annotations

from collections.abc import Mapping

from tcm_lab.complexity.counters.base import Count, Counter
from tcm_lab.complexity.counters.formula import count_by_formula
from tcm_lab.complexity.counters.fvcore import count_with_fvcore
from tcm_lab.complexity.counters.ptflops import count_with_ptflops, count_with_ptflops_aten
from tcm_lab.complexity.counters.torch import count_with_torch
from tcm_lab.complexity.record import CounterName

COUNTERS: Mapping[CounterName, Counter] = {
    "formula": count_by_formula,
    "torch": count_with_torch,
    "fvcore": count_with_fvcore,
    "ptflops": count_with_ptflops,
    "ptflops-aten": count_with_ptflops_aten,
}

__all__ = ["COUNTERS", "Count", "Counter"]

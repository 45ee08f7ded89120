"""The counters by name; each is a function of a target and a padded image size."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tcm_lab import codec
from tcm_lab.blocks import NoFormula
from tcm_lab.complexity.counters.base import Count
from tcm_lab.complexity.counters.fvcore import count_with_fvcore
from tcm_lab.complexity.counters.ptflops import count_with_ptflops, count_with_ptflops_aten
from tcm_lab.complexity.counters.torch import count_with_torch
from tcm_lab.complexity.record import CounterName
from tcm_lab.complexity.target import Target


def count_by_formula(target: Target, size: tuple[int, int]) -> Count:
    """Count by closed formulas: a function of the configuration alone, with no tensor in sight.

    Raises:
        NoFormula: the codec is a foreign one, or a layer has no closed formula; the message names
            it.
    """
    if target.config is None:
        raise NoFormula(f"{target.name} is a foreign codec, which has no closed formula")
    return Count(codec.part_costs(target.config, size))


COUNTERS: Mapping[CounterName, Callable[[Target, tuple[int, int]], Count]] = {
    "formula": count_by_formula,
    "torch": count_with_torch,
    "fvcore": count_with_fvcore,
    "ptflops": count_with_ptflops,
    "ptflops-aten": count_with_ptflops_aten,
}

__all__ = ["COUNTERS", "Count"]

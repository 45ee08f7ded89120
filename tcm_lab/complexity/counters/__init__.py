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
from tcm_lab.errors import LabError, first_line, lookup


def count_by_formula(target: Target, size: tuple[int, int]) -> Count:
    """Count by closed formulas, from the configuration alone and without tensors.

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


def count_by(name: CounterName, target: Target, size: tuple[int, int]) -> Count:
    """Count by the counter called ``name``.

    Raises:
        NoFormula: as `count_by_formula`.
        LabError: there is no such counter, or it cannot follow a user's layer.
    """
    counter = lookup(COUNTERS, name, "counter")
    try:
        return counter(target, size)
    except (NoFormula, LabError):
        raise
    except Exception as error:  # from a tool, on a layer that it does not support
        if not target.has_own_layers:
            raise
        reason = first_line(error)
        raise LabError(
            f"{target.name}: {name} cannot follow it ({reason}). Give its layers a cost(), by "
            "which the formula can count them."
        ) from error


__all__ = ["COUNTERS", "Count", "count_by"]

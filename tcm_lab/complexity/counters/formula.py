"""Counting by closed formulas: a function of the configuration alone, with no tensor in sight."""

from __future__ import annotations

from tcm_lab import codec
from tcm_lab.blocks import NoFormula
from tcm_lab.complexity.counters.base import Count
from tcm_lab.complexity.target import Target


def count_by_formula(target: Target, size: tuple[int, int]) -> Count:
    """Count one forward pass on an image of ``size``.

    Raises:
        NoFormula: the codec is a foreign one, or a layer has no closed formula; the message names
            it.
    """
    if target.config is None:
        raise NoFormula(f"{target.name} is a foreign codec, which has no closed formula")
    return Count(codec.part_costs(target.config, size))

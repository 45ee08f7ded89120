"""Counting by closed formulas: a function of the configuration alone, with no tensor in sight."""

from __future__ import annotations

from collections.abc import Mapping

from tcm_lab import codec
from tcm_lab.blocks.cost import Kind
from tcm_lab.codec import VariantConfig
from tcm_lab.complexity.record import Table


def count_by_formula(
    config: VariantConfig, size: tuple[int, int]
) -> tuple[Table, Table, dict[str, int]]:
    """Return MACs, parameters and activations of one image by part.

    Args:
        config: the codec.
        size: (height, width) of the image, before padding.

    Returns:
        MACs by part and kind, parameters by part and kind, activations by part.

    Raises:
        NoFormula: a layer has no closed formula; the message names it.
    """
    costs = codec.part_costs(config, size)
    macs = {part: _plain(cost.macs) for part, cost in costs.items()}
    parameters = {part: _plain(cost.parameters) for part, cost in costs.items()}
    return macs, parameters, {part: cost.activations for part, cost in costs.items()}


def _plain(counts: Mapping[Kind, int]) -> dict[str, int]:
    return {str(kind): count for kind, count in counts.items() if count}

"""How long each of some variants takes to code an image, untrained: columns of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tcm_lab import complexity
from tcm_lab.codec import VariantConfig
from tcm_lab.reporting import Column, Value, metric_column, spread_interval

_WAYS = ("encode", "decode")
_SECONDS = 4.0  # of each variant, beside the repetitions that an interval needs


def coding_columns() -> list[Column]:
    """Return the columns of `coding_times`."""
    columns = []
    for way in _WAYS:
        columns.append(metric_column(f"{way}_ms", header="median [quartiles]", group=way))
        columns.append(Column(key=f"{way}_ratio", header="over the first", group=way, format=".3f"))
    return columns


def coding_times(
    configs: Sequence[VariantConfig], size: tuple[int, int], **conditions: Any
) -> list[dict[str, Value]]:
    """Time codecs in turns, with random weights.

    Args:
        configs: of the codecs, two or more.
        size: (height, width) of the image.
        **conditions: other than the usual ones, and ``on_progress``; see `compare_timing`.

    Returns:
        Of each codec, the median times with quartiles, and their ratios to the first one's with
        intervals, by column key.

    Raises:
        LabError: one of them cannot be timed.
    """
    compared = complexity.compare_timing(configs, size, **{"seconds": _SECONDS, **conditions})
    over = {(ratio.model, str(ratio.scope)): ratio.ratio for ratio in compared.ratios}
    found = []
    for record in compared.records:
        values: dict[str, Value] = {}
        for way in _WAYS:
            values[f"{way}_ms"] = spread_interval(getattr(record, way).wall)
            values[f"{way}_ratio"] = over.get((record.model, way))
        found.append(values)
    return found

"""What readers call a codec's parts, and the order in which data pass them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tcm_lab.complexity import ComplexityRecord

PART_NAMES: Mapping[str, str] = {
    "g_a": "g_a",
    "h_a": "h_a",
    "h_s": "h_s",
    "attention": "entropy attention",
    "slice_heads": "slice networks",
    "lrp": "LRP",
    "g_s": "g_s",
    "prior": "prior",
    "gain": "rate gains",
}


def part_order(records: Sequence[ComplexityRecord]) -> list[str]:
    """Return the parts of all records that compute, in the order of the data's flow.

    Parts that have no name here, such as those of other people's models, come last.
    """
    found = {part for record in records for part, macs in record.macs.items() if sum(macs.values())}
    return [part for part in PART_NAMES if part in found] + sorted(found - set(PART_NAMES))

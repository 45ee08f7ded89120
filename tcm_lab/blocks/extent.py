"""The groups in a weight's dimensions, by which small layers can be parts of larger ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Extent(NamedTuple):
    """One dimension of a tensor.

    A smaller layer has the first places of each group of a larger one, such as the first heads of
    queries, keys and values.

    Attributes:
        groups: sizes of the groups, in order.
        centred: whether a smaller extent is the middle of a larger one, like offsets in a window.
    """

    groups: tuple[int, ...]
    centred: bool = False

    @property
    def size(self) -> int:
        """The dimension's size."""
        return sum(self.groups)

    def joined(self, other: Extent) -> Extent:
        """Return the smallest extent of which both are parts.

        Raises:
            ValueError: their groups do not correspond.
        """
        if len(self.groups) != len(other.groups) or self.centred != other.centred:
            raise ValueError(f"{self} and {other} have no place in common")
        return Extent(tuple(map(max, self.groups, other.groups)), self.centred)

    def runs(self, whole: Extent) -> list[tuple[int, int]]:
        """Return start and length of each run of places that this extent has in ``whole``."""
        if self.groups == whole.groups:
            return [(0, self.size)]
        runs, start = [], 0
        for own, full in zip(self.groups, whole.groups, strict=True):
            if own:
                runs.append((start + (full - own) // 2 if self.centred else start, own))
            start += full
        return runs


#: The extents of each parameter's dimensions, by its name; None: one group of the dimension's size.
#: A module whose channels form several groups returns them from a method ``extents()``.
Extents = Mapping[str, tuple[Extent | None, ...]]

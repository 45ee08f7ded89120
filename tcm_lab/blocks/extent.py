"""What a weight's dimension is composed of, so that small layers can be parts of larger ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Extent(NamedTuple):
    """One dimension of a tensor.

    A smaller layer has the first places of each group of a larger one: the first heads of queries,
    of keys and of values, say.

    Attributes:
        groups: sizes of the groups that lie behind one another.
        centred: whether a smaller one is the middle instead, as offsets in a window.
    """

    groups: tuple[int, ...]
    centred: bool = False

    @property
    def size(self) -> int:
        """The dimension's size."""
        return sum(self.groups)

    def joined(self, other: Extent) -> Extent:
        """Return the smallest extent that both are parts of.

        Raises:
            ValueError: they are composed differently.
        """
        if len(self.groups) != len(other.groups) or self.centred != other.centred:
            raise ValueError(f"{self} and {other} have no place in common")
        return Extent(tuple(map(max, self.groups, other.groups)), self.centred)

    def runs(self, whole: Extent) -> list[tuple[int, int]]:
        """Return start and length of each run of places that this one has in ``whole``."""
        if self.groups == whole.groups:
            return [(0, self.size)]
        found, start = [], 0
        for own, full in zip(self.groups, whole.groups, strict=True):
            if own:
                found.append((start + (full - own) // 2 if self.centred else start, own))
            start += full
        return found


#: By a parameter's name the extents of its dimensions; None: one group of the dimension's size.
#: A module whose channels lie in several groups returns it from a method ``extents()``.
Extents = Mapping[str, tuple[Extent | None, ...]]

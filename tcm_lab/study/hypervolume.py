"""The volume that a set of points dominates, exactly, for any small number of objectives."""

from __future__ import annotations

from collections.abc import Sequence


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Return the volume between ``reference`` and what is at least as low as it everywhere.

    By slicing along the last objective (While et al. 2006, "A faster algorithm for calculating
    hypervolume"): between two neighbouring values of it, the volume is that of the others.

    Args:
        points: one row per point, all objectives to be minimised.
        reference: the corner that bounds the volume; points beyond it count nothing.
    """
    inside = [tuple(p) for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(p[0] for p in inside)
    if len(reference) == 2:
        return _area(inside, (reference[0], reference[1]))
    levels = sorted({p[-1] for p in inside})
    total = 0.0
    for low, high in zip(levels, [*levels[1:], reference[-1]], strict=True):
        below = [p[:-1] for p in inside if p[-1] <= low]
        total += hypervolume(below, reference[:-1]) * (high - low)
    return total


def _area(points: list[tuple[float, ...]], reference: tuple[float, float]) -> float:
    area, edge = 0.0, reference[1]
    for x, y in sorted(points):
        if y < edge:
            area += (reference[0] - x) * (edge - y)
            edge = y
    return area

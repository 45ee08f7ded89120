"""Distinct names for things that share a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


def numbered(names: Iterable[str], mark: str = "#") -> list[str]:
    """Return the names, the second use of a name with ``#2`` appended, or with another mark."""
    seen, distinct = Counter[str](), list[str]()
    for name in names:
        seen[name] += 1
        distinct.append(f"{name}{mark}{seen[name]}" if seen[name] > 1 else name)
    return distinct

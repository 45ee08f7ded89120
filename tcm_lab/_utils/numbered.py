"""Distinct names for things that share one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


def numbered(names: Iterable[str], mark: str = "#") -> list[str]:
    """Return the names; ``#2``, or another mark, is behind the second of one name."""
    seen, found = Counter[str](), list[str]()
    for name in names:
        seen[name] += 1
        found.append(f"{name}{mark}{seen[name]}" if seen[name] > 1 else name)
    return found

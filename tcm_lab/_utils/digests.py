"""Short names for facts."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(facts: Any, digits: int = 16) -> str:
    """Return hex digits that differ where facts do, which JSON can write; order does not count."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:digits]

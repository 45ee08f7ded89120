"""Short digests of plain values."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(facts: Any, digits: int = 16) -> str:
    """Return hex digits that identify a JSON-serialisable value; the order of keys is ignored."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:digits]

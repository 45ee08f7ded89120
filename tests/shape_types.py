"""The type checker that the tests run the package under: shapes, and nothing but shapes.

Python's own types are mypy's business, which knows protocols and promotions that a check while
running does not; shapes such as ``Float[Tensor, "b c h w"]`` are what only a run can see.
"""

from __future__ import annotations

import re
from typing import Any

try:
    from beartype import beartype
except ModuleNotFoundError:  # as on a machine that runs tests/gpu alone
    beartype = None

_SHAPE = re.compile(r"\b(Float|Int|Bool|UInt8|Shaped)\[")


def check_shapes(function: Any) -> Any:
    """Return ``function`` with the arguments and results that have a shape type checked."""
    if beartype is None:
        return function
    hints = getattr(function, "__annotations__", {})
    function.__annotations__ = {
        name: hint for name, hint in hints.items() if _SHAPE.search(str(hint))
    }
    return beartype(function) if function.__annotations__ else function

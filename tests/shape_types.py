"""A run-time type checker for the tests that checks shapes only.

Python's own types are left to mypy, which knows protocols and promotions that a run-time check does
not. Shapes such as ``Float[Tensor, "b c h w"]`` can be checked only at run time.
"""

from __future__ import annotations

import re
from typing import Any

try:
    from beartype import beartype
except ModuleNotFoundError:  # for example, on a machine that runs only tests/gpu
    beartype = None

_SHAPE = re.compile(r"\b(Float|Int|Bool|UInt8|Shaped)\[")


def check_shapes(function: Any) -> Any:
    """Return ``function`` with checks of every argument and result that has a shape type."""
    if beartype is None:
        return function
    hints = getattr(function, "__annotations__", {})
    function.__annotations__ = {
        name: hint for name, hint in hints.items() if _SHAPE.search(str(hint))
    }
    return beartype(function) if function.__annotations__ else function

"""Shapes without torch's compiler, whose import takes longer than all that is computed of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"


@contextmanager
def compiler_left_out() -> Iterator[None]:
    """Keep torch from importing its compiler inside the ``with`` block.

    Kernels for tensors without data, and torch's operator modes, ask the compiler to leave them
    alone, and import it for that. Where it is not there yet, nothing is compiled: a stand-in hears
    them out. Nothing of it stays behind.
    """
    if _COMPILER in sys.modules:
        yield
        return
    asked: list[Any] = []

    def disable(function: Callable[..., Any], *_: object, **__: object) -> Callable[..., Any]:
        asked.append(function)
        return function

    stand_in: Any = ModuleType(_COMPILER)
    stand_in.disable = disable
    sys.modules[_COMPILER] = stand_in
    try:
        yield
    finally:
        del sys.modules[_COMPILER]
        for function in asked:
            vars(function).pop("__dynamo_disable", None)  # where torch keeps the answer

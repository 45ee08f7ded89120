"""How values show themselves in a notebook: asked in any layer, answered by the one with tables."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_RENDERERS: dict[type, Callable[[Any], str]] = {}
_REGISTERS = "tcm_lab.reporting.display"  # imported when a value is shown, and not before


def shows(kind: type[T], render: Callable[[T], str]) -> None:
    """Register what renders values of a type as a fragment of HTML."""
    _RENDERERS[kind] = render


def html_of(value: object) -> str | None:
    """Return a value as a fragment of HTML; ``None`` for one that is shown as text."""
    importlib.import_module(_REGISTERS)
    render = next((_RENDERERS[kind] for kind in type(value).__mro__ if kind in _RENDERERS), None)
    return None if render is None else render(value)

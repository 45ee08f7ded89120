"""Values as tables in notebooks and consoles, by renderers that a higher layer registers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Form = Literal["html", "text"]

_RENDERERS: dict[type, Callable[[Any, Form], str]] = {}
_REGISTERS = "tcm_lab.reporting.display"  # imported only when a value is shown


def register_renderer(kind: type[T], render: Callable[[T, Form], str]) -> None:
    """Register the function that renders values of a type as an HTML fragment or as text."""
    _RENDERERS[kind] = render


def rendered(value: object, form: Form) -> str | None:
    """Return a value as a table in the given form, or ``None`` if its type has no renderer."""
    importlib.import_module(_REGISTERS)
    render = next((_RENDERERS[kind] for kind in type(value).__mro__ if kind in _RENDERERS), None)
    return None if render is None else render(value, form)

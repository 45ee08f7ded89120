"""Named sections of a computation, which a listener can time; without one they cost nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

Listener = Callable[[str], AbstractContextManager[object]]
_listener: ContextVar[Listener | None] = ContextVar("section_listener", default=None)


def section(name: str) -> AbstractContextManager[object]:
    """Mark the ``with`` block as section ``name``; a listener may wrap it."""
    listener = _listener.get()
    return nullcontext() if listener is None else listener(name)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Wrap every section entered inside the ``with`` block in ``listener(name)``."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)

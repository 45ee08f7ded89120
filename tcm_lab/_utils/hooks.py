"""Hooks on modules that are removed when a block ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch.utils.hooks import RemovableHandle


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks behind ``handles`` when the ``with`` block ends."""
    with ExitStack() as stack:
        for handle in handles:
            stack.enter_context(handle)
        yield

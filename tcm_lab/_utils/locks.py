"""Something that many threads may use at once, or one alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedLock:
    """Lets many threads read something at once, or one thread alone change it.

    A copy, or what is unpickled, is a lock of its own. A thread that is alone may also read; one
    that reads must not ask to be alone.
    """

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._readers: set[object] = set()

    def __reduce__(self) -> tuple[type[SharedLock], tuple[()]]:
        return SharedLock, ()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Keep those away that want to be alone."""
        reader = object()
        try:  # wherever a Ctrl-C comes, what is not in the set can be taken out of it
            with self._free:
                self._readers.add(reader)
            yield
        finally:
            with self._free:
                self._readers.discard(reader)
                self._free.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep all other threads away."""
        with self._free:
            self._free.wait_for(lambda: not self._readers)
            yield

"""A lock for shared or exclusive access."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedLock:
    """Lets many threads read at once, or one thread alone write.

    A copied or unpickled lock is a new lock. A thread that is alone may also read; a reading thread
    must not ask to be alone.
    """

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._readers: set[object] = set()

    def __reduce__(self) -> tuple[type[SharedLock], tuple[()]]:
        return SharedLock, ()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Keep away threads that want to be alone."""
        reader = object()
        try:  # wherever a Ctrl-C lands: discarding is safe even before the reader was added
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

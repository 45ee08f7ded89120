"""A lock for shared or exclusive access."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile


class SharedLock:
    """Lets many threads read together, or one thread write alone, in order of arrival.

    No thread waits indefinitely: readers that arrive after a writer wait for it. A thread that
    already has access may read again without waiting, and a writer may ask to be alone again. A
    reading thread must not ask to be alone. A copied or unpickled lock is a new lock.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        #: Thread, and whether it is to be alone, of those that have access or wait for it.
        self._queue: dict[object, tuple[int, bool]] = {}

    def __reduce__(self) -> tuple[type[SharedLock], tuple[()]]:
        return SharedLock, ()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Keep away threads that want to be alone."""
        with self._access(alone=False):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep all other threads away."""
        with self._access(alone=True):
            yield

    @contextmanager
    def _access(self, *, alone: bool) -> Iterator[None]:
        place = object()
        try:  # wherever a Ctrl-C lands: leaving is safe even before the place was taken
            with self._changed:
                self._queue[place] = threading.get_ident(), alone
                self._changed.wait_for(lambda: self._is_next(place))
            yield
        finally:
            with self._changed:
                self._queue.pop(place, None)
                self._changed.notify_all()

    def _is_next(self, place: object) -> bool:
        """Return whether no thread ahead in the queue blocks the one at this place."""
        thread, alone = self._queue[place]
        before = [self._queue[other] for other in takewhile(lambda p: p is not place, self._queue)]
        own = [was_alone for other, was_alone in before if other == thread]
        if alone and own and not any(own):
            raise RuntimeError("a reading thread must not ask to be alone")
        return bool(own) or not any(alone or other_alone for _, other_alone in before)

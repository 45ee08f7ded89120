"""A limit on how long one attempt may take, so that a hang is a failure with a name."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_most(seconds: int, what: object) -> Iterator[None]:
    """Raise ``TimeoutError`` inside the block after so many seconds (POSIX, main thread)."""

    def late(*_: object) -> None:
        raise TimeoutError(f"{what}: no answer after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

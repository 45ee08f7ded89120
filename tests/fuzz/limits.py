"""A limit on how long one attempt may take, so that a hang is a failure with a name."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Late(BaseException):
    """Nothing that handles errors may take a hang for one."""


@contextmanager
def at_most(seconds: int, what: object) -> Iterator[None]:
    """Raise `Late` inside the block after so many seconds (POSIX, main thread)."""

    def late(*_: object) -> None:
        raise Late(f"{what}: no answer after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

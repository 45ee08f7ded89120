"""A time limit for single attempts, which turns a hang into a failure that names its cause."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Late(BaseException):
    """The time limit was exceeded; a BaseException, so that no error handling swallows it."""


@contextmanager
def at_most(seconds: int, what: object) -> Iterator[None]:
    """Raise `Late` inside the block after ``seconds`` of CPU time (POSIX, main thread).

    CPU time does not depend on how busy the machine is. Idle waits are limited to sixty times as
    many seconds of wall time.
    """

    def late(*_: object) -> None:
        raise Late(f"{what}: no answer after {seconds} s")

    signals = (signal.SIGPROF, signal.SIGALRM)
    before = [signal.signal(each, late) for each in signals]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(60 * seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)

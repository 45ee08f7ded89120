"""A limit on how long one attempt may take, so that a hang is a failure with a name."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Late(BaseException):
    """Nothing that handles errors may take a hang for one."""


@contextmanager
def at_most(seconds: int, what: object) -> Iterator[None]:
    """Raise `Late` inside the block after so many seconds of work (POSIX, main thread).

    On a busy machine these take longer by the clock; a wait without work has sixty times as long.
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

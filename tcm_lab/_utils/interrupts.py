"""Ctrl-C, deferred while it would cut something in two."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hold_interrupts() -> Iterator[threading.Event]:
    """Defer the first Ctrl-C until the block ends; a second one acts at once.

    The block may check the event, which is set while an interrupt is pending, and raise
    KeyboardInterrupt itself. Only the main thread is ever interrupted; in any other thread this
    does nothing.
    """
    waiting = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield waiting
        return
    before = signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        waiting.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    answered = False
    try:
        yield waiting
    except KeyboardInterrupt:
        answered = True
        raise
    finally:
        signal.signal(signal.SIGINT, before)
        if waiting.is_set() and not answered:
            signal.raise_signal(signal.SIGINT)

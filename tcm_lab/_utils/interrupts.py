"""Ctrl-C, kept waiting where it would cut something in two."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hold_interrupts() -> Iterator[threading.Event]:
    """Keep the first Ctrl-C waiting until the block ends; a second one acts at once.

    The block may look at the event, which says that one waits, and raise KeyboardInterrupt itself.
    Only the main thread is ever interrupted, so that elsewhere this does nothing.
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

"""What ends a training early, without damage to what is saved: divergence and Ctrl-C."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tcm_lab.errors import LabError

_EXPLODED = 10.0  # times the smoothed loss
_SMOOTHING = 0.9
MAX_ROLLBACKS = 3


class DivergedError(LabError):
    """A training that diverged more than ``MAX_ROLLBACKS`` times."""


class DivergenceGuard:
    """Judges the mean loss of a few steps against the smoothed loss of those before.

    Attributes:
        smoothed: exponential moving average of the accepted losses; ``None`` before the first.
    """

    def __init__(self, smoothed: float | None = None) -> None:
        self.smoothed = smoothed

    def accepts(self, loss: float, gradient_norm: float) -> bool:
        """Return whether training may go on, and remember the loss if so."""
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            return False
        if self.smoothed is None:
            self.smoothed = loss
        if loss > _EXPLODED * self.smoothed:
            return False
        self.smoothed = _SMOOTHING * self.smoothed + (1 - _SMOOTHING) * loss
        return True


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that no step is cut in two; the second one acts."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
    if event.is_set():  # after the block's last look at it
        raise KeyboardInterrupt

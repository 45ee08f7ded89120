"""Detection of divergence, which ends a training early."""

from __future__ import annotations

import math

from tcm_lab.errors import LabError

_EXPLODED = 10.0  # multiple of the smoothed loss
_SMOOTHING = 0.9
MAX_ROLLBACKS = 3


class DivergedError(LabError):
    """A training that diverged more than ``MAX_ROLLBACKS`` times."""


class DivergenceGuard:
    """Judges the mean loss of a few steps by the smoothed loss of earlier steps.

    Attributes:
        smoothed: exponential moving average of the accepted losses; ``None`` before the first.
    """

    def __init__(self, smoothed: float | None = None) -> None:
        self.smoothed = smoothed

    def accepts(self, loss: float, gradient_norm: float) -> bool:
        """Return whether training may continue, and remember the loss if so."""
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            return False
        if self.smoothed is None:
            self.smoothed = loss
        if loss > _EXPLODED * self.smoothed:
            return False
        self.smoothed = _SMOOTHING * self.smoothed + (1 - _SMOOTHING) * loss
        return True

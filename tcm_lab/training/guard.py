"""Notices a training that diverges, before the damage is saved."""

from __future__ import annotations

import math

from tcm_lab.errors import LabError

_EXPLODED = 10.0  # times the smoothed loss
_SMOOTHING = 0.9
MAX_ROLLBACKS = 3


class DivergedError(LabError):
    """A training that diverged again and again."""


class DivergenceGuard:
    """Judges the mean loss of a few steps against the smoothed loss of those before.

    Attributes:
        smoothed: exponential moving average of the accepted losses; ``None`` before the first.
    """

    def __init__(self, smoothed: float | None = None) -> None:
        self.smoothed = smoothed

    def accepts(self, loss: float, gradient_norm: float) -> bool:
        """Say whether training may go on, and remember the loss if so."""
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            return False
        if self.smoothed is None:
            self.smoothed = loss
        if loss > _EXPLODED * self.smoothed:
            return False
        self.smoothed = _SMOOTHING * self.smoothed + (1 - _SMOOTHING) * loss
        return True


def diverged(step: int, loss: float, lr: float, kept: str) -> DivergedError:
    """Word the end of a training that diverged too often."""
    return DivergedError(
        f"training diverged at step {step} (loss {loss:.4g}) for the {MAX_ROLLBACKS + 1}th time, "
        f"with lr at last {lr:.2g}. {kept} Lower lr or clip_norm, or look for damaged images."
    )

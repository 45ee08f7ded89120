"""Detection of divergence, which ends a training early."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tcm_lab.errors import LabError

# Metrics are fetched from the device once per this number of steps, so that a GPU need not wait.
WINDOW = 10
_EXPLODED = 10.0  # multiple of the smoothed loss
_SMOOTHING = 0.9  # over a window
MAX_ROLLBACKS = 3


class DivergedError(LabError):
    """A training that diverged more than ``MAX_ROLLBACKS`` times."""


class DivergenceGuard:
    """Tells a training that diverges from one that meets unusual crops.

    A divergence raises the loss of all crops, and for good. So a training diverges if something is
    not finite, or if the geometric mean of the losses, which a few crops cannot raise far, is above
    ten times the smoothed loss in two windows in a row.

    Attributes:
        smoothed: exponential moving average of the mean losses; ``None`` before the first.
        in_doubt: whether the latest mean loss was above ten times the smoothed one, by a few crops
            or by a divergence that begins. The state at such a step is not worth keeping.
    """

    def __init__(self, smoothed: float | None = None) -> None:
        self.smoothed = smoothed
        self.in_doubt = False
        self._jumped = False  # in the window before
        self._steps = self._log_loss = 0.0  # of this window: the number, and the sum

    def accepts(self, means: Mapping[str, float]) -> bool:
        """Return whether training may continue.

        Args:
            means: means of ``loss``, ``log_loss`` and ``gradient_norm`` over the ``steps`` since
                the call before. A window is complete after ten steps or more.
        """
        loss, steps = means["loss"], means["steps"]
        if not (math.isfinite(loss) and math.isfinite(means["gradient_norm"])):
            return False
        if self.smoothed is None:
            self.smoothed = loss
        limit = _EXPLODED * self.smoothed
        self._steps += steps
        self._log_loss += steps * means["log_loss"]
        self.in_doubt = loss > limit
        jumps = self.in_doubt and math.exp(self._log_loss / self._steps) > limit
        if not jumps:
            kept = _SMOOTHING ** (steps / WINDOW)
            self.smoothed = kept * self.smoothed + (1 - kept) * min(loss, limit)
        if self._steps < WINDOW:
            return True
        lasts, self._jumped = jumps and self._jumped, jumps
        self._steps = self._log_loss = 0.0
        return not lasts

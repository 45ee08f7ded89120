"""What a running training tells, and the line that shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tcm_lab._utils.progress import progress


@dataclass(frozen=True)
class Progress:
    """Means since the last report.

    Attributes:
        step: steps done.
        steps: steps to do.
        loss: lambda D + bpp.
        bpp: estimated bits per pixel.
        psnr_db: PSNR of the mean squared error.
        images_per_s: crops per second over all processes.
        remaining_s: seconds left at the current pace.
    """

    step: int
    steps: int
    loss: float
    bpp: float
    psnr_db: float
    images_per_s: float
    remaining_s: float

    @property
    def text(self) -> str:
        """The figures on one line."""
        return (
            f"loss {self.loss:6.3f}  {self.bpp:5.3f} bpp  {self.psnr_db:5.2f} dB  "
            f"{self.images_per_s:5.1f} images/s"
        )


OnProgress = Callable[[Progress], None]


@contextmanager
def progress_line(title: str) -> Iterator[OnProgress]:
    """Show on stderr a bar with the figures and the remaining time while the block runs.

    Where nobody watches (a file, a cluster's log) it is a line every twenty seconds.
    """
    with progress(f"{title}, step") as show:
        yield lambda now: show(now.step, now.steps, now.text, now.remaining_s)

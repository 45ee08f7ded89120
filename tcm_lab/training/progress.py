"""What a running training tells, and one progress line for all who show it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_LINE_EVERY_S = 20.0


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
    """Show one line with a bar, the figures and the remaining time while the block runs.

    Where nobody watches (a file, a cluster's log) it is a line of words now and then.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console()
    if not console.is_terminal:
        yield _Lines(title)
        return

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TextColumn("{task.fields[left]}"),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(title, total=None, figures="", left="")

        def show(progress: Progress) -> None:
            bar.update(
                task,
                total=progress.steps,
                completed=progress.step,
                figures=progress.text,
                left=f"{_duration(progress.remaining_s)} left",
            )

        yield show


class _Lines:
    """Prints where a training is: its first step, every twenty seconds, and its last."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._told_s = -math.inf

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._told_s < _LINE_EVERY_S and progress.step < progress.steps:
            return
        self._told_s = now
        where = f"step {progress.step} of {progress.steps}, {progress.text}"
        print(f"{self._title}: {where}, {_duration(progress.remaining_s)} left", flush=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

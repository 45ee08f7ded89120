"""What a running training tells, and one progress line for all who show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


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
    """Show one line with a bar, the figures and the remaining time while the block runs."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TextColumn("{task.fields[left]}"),
    )
    with Bar(*columns) as bar:
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


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

"""Progress of long work: a bar on a terminal, an occasional line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

LINE_EVERY_S = 20.0

OnDone = Callable[[int, int], None]
"""Callback receiving (done, total)."""


class ShowProgress(Protocol):
    """Callback that displays progress."""

    def __call__(
        self, done: int, total: int, details: str = "", remaining_s: float | None = None
    ) -> None:
        """Show progress with further details; the remaining time is estimated if not given."""


@contextmanager
def progress(title: str) -> Iterator[ShowProgress]:
    """Show the block's progress and remaining time on stderr.

    A terminal shows a bar until the end. A file, a notebook or a cluster's log gets a line every
    twenty seconds, and nothing for shorter work.
    """
    from rich.console import Console

    console = Console(stderr=True)
    begun_s = time.monotonic()
    with _bar(title, console) if console.is_terminal else nullcontext(_lines(title)) as update:

        def show(
            done: int, total: int, details: str = "", remaining_s: float | None = None
        ) -> None:
            if remaining_s is None:
                remaining_s = (time.monotonic() - begun_s) / max(done, 1) * (total - done)
            update(done, total, details, f"{duration(remaining_s)} left")

        yield show


_Update = Callable[[int, int, str, str], None]


@contextmanager
def _bar(title: str, console: Console) -> Iterator[_Update]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[details]}", markup=False),
        TextColumn("{task.fields[left]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None, details="", left="")
        yield lambda done, total, details, left: bar.update(
            task, completed=done, total=total, details=details, left=left
        )


def _lines(title: str) -> _Update:
    begun_s = shown_s = time.monotonic()

    def update(done: int, total: int, details: str, left: str) -> None:
        nonlocal shown_s
        now_s = time.monotonic()
        if now_s - shown_s >= LINE_EVERY_S or (done == total and shown_s > begun_s):
            shown_s = now_s
            parts = (f"{title}: {done} of {total}", details, left)
            print(", ".join(filter(None, parts)), file=sys.stderr, flush=True)

    return update


def duration(seconds: float) -> str:
    """Return a time as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

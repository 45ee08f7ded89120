"""How far long work is: a bar on a terminal, elsewhere a line now and then."""

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
    """Shows how far something is."""

    def __call__(
        self, done: int, total: int, details: str = "", remaining_s: float | None = None
    ) -> None:
        """Show it, with what else is known; the time that is left is estimated if not given."""


@contextmanager
def progress(what: str) -> Iterator[ShowProgress]:
    """Show on stderr how far the block is, and how long the rest takes.

    A terminal has a bar until the end. A file, a notebook or a cluster's log gets a line every
    twenty seconds, so nothing of what is done sooner.
    """
    from rich.console import Console

    console = Console(stderr=True)
    begun_s = time.monotonic()
    with _bar(what, console) if console.is_terminal else nullcontext(_lines(what)) as update:

        def show(
            done: int, total: int, details: str = "", remaining_s: float | None = None
        ) -> None:
            if remaining_s is None:
                remaining_s = (time.monotonic() - begun_s) / max(done, 1) * (total - done)
            update(done, total, details, f"{duration(remaining_s)} left")

        yield show


_Update = Callable[[int, int, str, str], None]


@contextmanager
def _bar(what: str, console: Console) -> Iterator[_Update]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[details]}", markup=False),
        TextColumn("{task.fields[left]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None, details="", left="")
        yield lambda done, total, details, left: bar.update(
            task, completed=done, total=total, details=details, left=left
        )


def _lines(what: str) -> _Update:
    begun_s = shown_s = time.monotonic()

    def update(done: int, total: int, details: str, left: str) -> None:
        nonlocal shown_s
        now_s = time.monotonic()
        if now_s - shown_s >= LINE_EVERY_S or (done == total and shown_s > begun_s):
            shown_s = now_s
            words = (f"{what}: {done} of {total}", details, left)
            print(", ".join(filter(None, words)), file=sys.stderr, flush=True)

    return update


def duration(seconds: float) -> str:
    """Return a time as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

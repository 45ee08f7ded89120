"""Progress of a running study: bars on a terminal, or plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tcm_lab._utils.progress import LINE_EVERY_S, duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from tcm_lab.study.context import Event

_EVALUATION = 0.05  # share of a training's work, for the estimate
_DONE = ("complete", "known", "stopped", "failed")


class Display:
    """Shows the events of a study's workers, with an estimate of the remaining time.

    Args:
        trainings: total number of trainings, as far as it is known.
        done: number of trainings that an earlier run has done.
        console: where to show the events.
        first_is_shared: whether the first training does work for all others, such as a supernet.
    """

    def __init__(
        self, trainings: int, done: int, console: Console, *, first_is_shared: bool = False
    ) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self.console, self.trainings = console, max(trainings, 1)
        self._before: float = done  # trainings that do not count for the pace
        self._done = done
        self._shared = first_is_shared and not done  # whether shared work is not finished yet
        self._shares: dict[int, float] = {}
        self._ahead = 0  # trainings of finalists, whose times differ from those before
        self._final = False  # whether they have begun
        self._started_s = self._begun_s = time.monotonic()  # the latter for the pace
        self._shown_s = -LINE_EVERY_S
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._whole = self._bars.add_task("study", total=self.trainings, text="")
        self._tasks: dict[int, TaskID] = {}

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if event.finalists and not self._final:
            self._ahead = event.finalists
        if event.finalist and not self._final:
            self._final, self._ahead = True, 0
            self._pace_anew()
        if event.kind in (*_DONE, "aside", "killed"):
            self._shares.pop(event.worker, None)
            self._done += event.kind in _DONE
            self._before += event.kind == "known"  # took no time
            if self._shared and self._done:
                self._shared = False
                self._pace_anew()
        elif event.kind in ("started", "progress") and event.steps:
            is_first = event.step and not any(self._shares.values()) and self._done == self._before
            self._shares[event.worker] = (1 - _EVALUATION) * event.step / event.steps
            if is_first:  # a linear phase, shared by all, came before
                self._pace_anew()
        left_s = self.left_s
        left = "" if left_s is None else f", about {duration(left_s)} left"
        if left and self._ahead:
            left += f" before {self._ahead} trainings of finalists"
        trainings = max(self.trainings, self._done)
        state = f"{self._done} of {trainings} trainings done{left}"
        self._move(event)
        self._bars.update(self._whole, total=trainings, completed=self._worked, text=state)
        self._print(event, state)

    def _pace_anew(self) -> None:
        self._begun_s, self._before = time.monotonic(), self._worked

    @property
    def _worked(self) -> float:
        """Trainings done, including the shares of those that are running."""
        return self._done + sum(self._shares.values())

    @property
    def left_s(self) -> float | None:
        """Remaining seconds at the pace of this run; None while it is unknown.

        Finalists are left out until one has been trained, since their pace is unknown before.
        """
        here = self._worked - self._before
        if self._shared or here < 0.01:
            return None
        left = self.trainings - self._ahead - self._worked
        if left <= 0 and self._shares:  # further seeds of the front are not in the count
            return None
        pace = (time.monotonic() - self._begun_s) / here
        return max(0.0, left * pace)

    def _print(self, event: Event, state: str) -> None:
        now = time.monotonic()
        if self.console.is_terminal and event.kind in ("started", "progress", "waiting"):
            return  # the bars show it
        if event.kind == "progress" and now - self._shown_s < LINE_EVERY_S:
            return
        self._shown_s = now
        passed = duration(now - self._started_s)
        self.console.print(
            f"[{passed}] {_text_of(event)}  ({state})",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip

    def _move(self, event: Event) -> None:
        if event.worker not in self._tasks:
            self._tasks[event.worker] = self._bars.add_task("", total=1, text="")
        task = self._tasks[event.worker]
        if event.kind == "waiting":
            self._bars.update(task, description="waiting", completed=0, text="")
        else:
            self._bars.update(
                task,
                description=event.label,
                total=max(event.steps, 1),
                completed=event.step,
                text=f"step {event.step} of {event.steps}  {event.text}",
            )


def _text_of(event: Event) -> str:
    """Return the text of an event for a line of a log."""
    if event.kind == "waiting":
        return "waiting for the other workers"
    texts = {
        "started": "training",
        "progress": f"step {event.step} of {event.steps}, {event.text}",
        "complete": f"done, {event.text}",
        "known": f"already known, {event.text}",
        "stopped": f"stopped early after {event.step} steps, {event.text}",
        "failed": f"FAILED, {event.text}",
        "aside": event.text,
        "killed": event.text,
    }
    return f"{event.label}: {texts[event.kind]}"

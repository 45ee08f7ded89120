"""What a terminal shows while a study runs: bars, or lines where there is no terminal."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from tcm_lab._utils.progress import LINE_EVERY_S, duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from tcm_lab.study.context import Event

_EVALUATION = 0.05  # of a training's work, for the estimate
_DONE = ("complete", "known", "stopped", "failed")


class Display:
    """Shows the events of a study's workers, with an estimate of the time that is left.

    Args:
        trainings: number of trainings in all, as far as known.
        done: how many of them an earlier run has done.
        console: where to show it.
    """

    def __init__(self, trainings: int, done: int, console: Console) -> None:
        self.console, self.trainings = console, max(trainings, 1)
        self._before: float = done
        self._done = done
        self._shares: dict[int, float] = {}
        self._begun_s = time.monotonic()
        self._shown_s = -LINE_EVERY_S
        self._live = console.is_terminal
        self._tasks: dict[int, TaskID] = {}

    def __enter__(self) -> Display:
        if self._live:
            from rich.progress import BarColumn, Progress, TextColumn

            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}", markup=False),
                console=self.console,
            )
            self._bars.start()
            self._whole = self._bars.add_task("study", total=self.trainings, text="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if event.kind == "killed":
            self._shares.pop(event.worker, None)
        elif event.kind in _DONE:
            self._shares.pop(event.worker, None)
            self._done += 1
        elif event.kind in ("started", "progress") and event.steps:
            moves = event.step and not any(self._shares.values()) and self._done == self._before
            self._shares[event.worker] = (1 - _EVALUATION) * event.step / event.steps
            if moves:  # a linear phase, shared by all, went before
                self._begun_s = time.monotonic()
                self._before = self._done + self._shares[event.worker]
        if self._live:
            self._move(event)
        self._say(event)

    @property
    def left_s(self) -> float | None:
        """Remaining seconds at the pace of this run; None while that is unknown."""
        whole = self._done + sum(self._shares.values())
        worked = whole - self._before
        if worked < 0.01:
            return None
        pace = (time.monotonic() - self._begun_s) / worked
        return max(0.0, (self.trainings - whole) * pace)

    def _say(self, event: Event) -> None:
        now = time.monotonic()
        words = {
            "started": f"{event.label}: training",
            "complete": f"{event.label}: done, {event.text}",
            "known": f"{event.label}: already known, {event.text}",
            "stopped": f"{event.label}: stopped early after {event.step} steps, {event.text}",
            "failed": f"{event.label}: FAILED, {event.text}",
            "killed": f"{event.label}: {event.text}",
            "waiting": "waiting for the other workers",
        }
        text = words.get(event.kind)
        if text is None:
            if self._live or now - self._shown_s < LINE_EVERY_S:
                return
            text = f"{event.label}: step {event.step} of {event.steps}, {event.text}"
        elif self._live and event.kind in ("started", "waiting"):
            return
        self._shown_s = now
        left = "" if self.left_s is None else f", about {duration(self.left_s)} left"
        clock = duration(now - self._begun_s)
        trainings = max(self.trainings, self._done)
        self.console.print(
            f"[{clock}] {text}  ({self._done} of {trainings} trainings done{left})",
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
        left = "" if self.left_s is None else f", about {duration(self.left_s)} left"
        self._bars.update(
            self._whole,
            total=max(self.trainings, self._done),
            completed=self._done + sum(self._shares.values()),
            text=f"{self._done} of {self.trainings} trainings done{left}",
        )

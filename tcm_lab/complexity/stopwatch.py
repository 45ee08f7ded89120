"""A clock that says where the time went: every moment belongs to exactly one named stage.

Stages nest; time inside an inner stage is not the outer one's. So the stages of a run, with
``other`` for what no stage claims, add up to the run. On a GPU the marks are CUDA events in the
stream of work, so a stage is charged for its kernels whenever they run, not for their launch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

OTHER = "other"


class Stopwatch:
    """Times one run after another.

    Args:
        device: where the work runs; ``cpu`` or ``cuda``.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._device = device
        self._stack = [OTHER]
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time the ``with`` block as one run, synchronised before and after."""
        self._synchronise()
        self._stack, self._marks = [OTHER], []
        self._began = time.perf_counter()
        self._mark()
        try:
            yield
        finally:
            self._mark()
            self._synchronise()
            self._ended = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Charge the ``with`` block to stage ``name``."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def enter(self, name: str) -> None:
        """Charge what follows to stage ``name``, until `leave`."""
        self._mark()
        self._stack.append(name)

    def leave(self) -> None:
        """Charge what follows to the stage that was left for this one."""
        self._mark()
        self._stack.pop()

    @property
    def wall_ms(self) -> float:
        """Wall time of the last run, from synchronised to synchronised."""
        return 1e3 * (self._ended - self._began)

    def stages_ms(self) -> dict[str, float]:
        """Return the time of each stage of the last run, in the order of their first entry."""
        spent: dict[str, float] = {}
        for (_, before), (stage, after) in zip(self._marks, self._marks[1:], strict=False):
            spent[stage] = spent.get(stage, 0.0) + _between_ms(before, after)
        other = spent.pop(OTHER, 0.0)
        return {**spent, OTHER: other}

    def _mark(self) -> None:
        """Close the current stage's time here."""
        if self._on_gpu:
            now: float | torch.cuda.Event = torch.cuda.Event(enable_timing=True)
            assert isinstance(now, torch.cuda.Event)
            now.record()
        else:
            now = time.perf_counter()
        self._marks.append((self._stack[-1], now))

    def _synchronise(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize(self._device)


def _between_ms(before: float | torch.cuda.Event, after: float | torch.cuda.Event) -> float:
    if isinstance(before, float) and isinstance(after, float):
        return 1e3 * (after - before)
    assert isinstance(before, torch.cuda.Event)
    assert isinstance(after, torch.cuda.Event)
    return float(before.elapsed_time(after))

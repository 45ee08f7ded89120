"""CPU seconds of a trial, over all the parts that interruptions leave of it."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from tcm_lab._utils.files import write_atomically
from tcm_lab.errors import FileError

_FILE = "cpu_s.txt"
_EVERY_S = 10.0


class CpuTime:
    """Seconds of CPU time that a trial takes; kept beside its state, so that a later part goes on.

    A worker that is killed loses its last seconds, ten at most.

    Args:
        directory: of the trial.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / _FILE
        self._earlier_s = 0.0
        with suppress(OSError, ValueError):  # there was no earlier part
            self._earlier_s = float(self._path.read_text(encoding="utf-8"))
        self._kept_s = self._earlier_s
        self._begun = time.process_time()

    @property
    def total_s(self) -> float:
        """All parts together."""
        return self._earlier_s + time.process_time() - self._begun

    def keep(self) -> None:
        """Write down what it comes to, if the disk takes it."""
        self._kept_s = self.total_s
        with suppress(FileError):
            write_atomically(self._path, f"{self._kept_s:.3f}\n")

    def keep_at_times(self) -> None:
        """Write it down if the last time is long ago."""
        if self.total_s - self._kept_s >= _EVERY_S:
            self.keep()

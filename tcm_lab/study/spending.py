"""What work on a trial takes of the machine: CPU time, and memory where there is too little."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import torch

from tcm_lab._utils.files import write_atomically
from tcm_lab.errors import FileError

_KEPT_EVERY_S = 10.0
_NONE_LEFT = ("can't allocate memory", "not enough memory")  # of torch's allocator on the CPU


class CpuTime:
    """Seconds of CPU time that some work takes, over all the parts that interruptions leave of it.

    They are kept beside its state. A worker that is killed loses its last seconds, ten at most.

    Args:
        file: that keeps them.
    """

    def __init__(self, file: Path) -> None:
        self._path = file
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
        if self.total_s - self._kept_s >= _KEPT_EVERY_S:
            self.keep()


def memory_shortage(error: BaseException) -> str | None:
    """Return what an error says of memory that was used up, in one line; None of any other."""
    first = next(iter(str(error).splitlines()), "")
    on_host = isinstance(error, RuntimeError) and any(words in first for words in _NONE_LEFT)
    if not (on_host or isinstance(error, torch.OutOfMemoryError | MemoryError)):
        return None
    return (
        f"out of memory ({first or 'host'}). Rerun the command to try it again, with fewer "
        "--workers if several share the memory."
    )

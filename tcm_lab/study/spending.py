"""CPU time of trials, and out-of-memory errors."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import torch

from tcm_lab._utils.files import write_atomically
from tcm_lab.errors import FileError

_KEPT_EVERY_S = 10.0
_NONE_LEFT = ("can't allocate memory", "not enough memory")  # messages of torch's CPU allocator


class CpuTime:
    """CPU seconds spent on a piece of work, summed across interruptions.

    The total is stored next to the work's state. A worker that is killed loses at most its last
    ten seconds.

    Args:
        file: where the total is stored.
    """

    def __init__(self, file: Path) -> None:
        self._path = file
        self._earlier_s = 0.0
        with suppress(OSError, ValueError):  # no earlier part
            self._earlier_s = float(self._path.read_text(encoding="utf-8"))
        self._kept_s = self._earlier_s
        self._begun = time.process_time()

    @property
    def total_s(self) -> float:
        """The total of all parts."""
        return self._earlier_s + time.process_time() - self._begun

    def keep(self) -> None:
        """Write the total, if the disk allows."""
        self._kept_s = self.total_s
        with suppress(FileError):
            write_atomically(self._path, f"{self._kept_s:.3f}\n")

    def keep_at_times(self) -> None:
        """Write the total if it has grown by ten seconds since the last write."""
        if self.total_s - self._kept_s >= _KEPT_EVERY_S:
            self.keep()


def memory_shortage(error: BaseException) -> str | None:
    """Return a one-line description of an out-of-memory error, or None for any other error."""
    first = next(iter(str(error).splitlines()), "")
    on_host = isinstance(error, RuntimeError) and any(words in first for words in _NONE_LEFT)
    if not (on_host or isinstance(error, torch.OutOfMemoryError | MemoryError)):
        return None
    return (
        f"out of memory ({first or 'host'}). Rerun the command to try it again, with fewer "
        "--workers if several share the memory."
    )

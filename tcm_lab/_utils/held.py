"""Folders that one process at a time may write to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tcm_lab.errors import FileError


@contextmanager
def held(folder: Path, refusal: str) -> Iterator[None]:
    """Hold a folder while the block runs, so that no other block does; make it if it is missing.

    The system lets go of it when the process ends, however that is. Windows and some network file
    systems hold nothing.

    Args:
        folder: the folder; one that was made here and stays empty is removed again.
        refusal: what the message says where another holds it.

    Raises:
        FileError: another block holds it, or it can't be made or read.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _take(folder)
    except BlockingIOError:
        raise FileError(f"{folder}: {refusal}") from None
    except OSError as error:
        raise FileError(
            f"{folder}: cannot be made ({error.strerror or error}). Name another folder."
        ) from error
    try:
        yield
    finally:
        if descriptor is not None:
            _release(descriptor)
        if is_new:
            with suppress(OSError):  # it holds something, as it should
                folder.rmdir()


if sys.platform != "win32":
    import fcntl

    def _take(folder: Path) -> int | None:
        """Return what holds a folder, None if nothing can; BlockingIOError if another does."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise
            return None  # a file system without locks
        return descriptor

    def _release(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # also for processes that were forked meanwhile
        os.close(descriptor)

else:

    def _take(folder: Path) -> None:
        """Hold nothing, which Windows has no such way to do."""
        del folder

    def _release(descriptor: int) -> None:
        os.close(descriptor)

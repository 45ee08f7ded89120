"""Folders that only one process at a time may write to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tcm_lab.errors import FileError

_TRIES = 100  # a try fails if another block removes the folder that it had created


class HeldError(FileError):
    """Another block holds a folder.

    Args:
        folder: the folder.
        refusal: the message after the folder's name.
    """

    def __init__(self, folder: Path, refusal: str) -> None:
        super().__init__(f"{folder}: {refusal}")
        self.folder = folder


@contextmanager
def held(folder: Path, refusal: str) -> Iterator[None]:
    """Hold a folder exclusively while the block runs; create it if it is missing.

    The system releases it when the process ends, however it ends. On Windows and some network file
    systems nothing is held.

    Args:
        folder: the folder; if it is created here and stays empty, it is removed again.
        refusal: the message, after the folder's name, if another block holds it.

    Raises:
        HeldError: another block holds it.
        FileError: it can't be created or read.
    """
    is_new = not folder.exists()
    try:
        descriptor = _make_and_take(folder)
    except BlockingIOError:
        raise HeldError(folder, refusal) from None
    except OSError as error:
        raise FileError(
            f"{folder}: cannot be created ({error.strerror or error}). Name another folder."
        ) from error
    try:
        yield
    finally:
        if is_new:  # still held, so no other block has begun in it
            with suppress(OSError):  # it is not empty, as it should be
                folder.rmdir()
        if descriptor is not None:
            _release(descriptor)


def is_held(folder: Path) -> bool:
    """Return whether a block holds a folder now."""
    try:
        descriptor = _take(folder)
    except BlockingIOError:
        return True
    except OSError:  # it is gone
        return False
    if descriptor is not None:
        _release(descriptor)
    return False


def _make_and_take(folder: Path) -> int | None:
    """Create a folder if it is missing, and hold it as `_take` does."""
    for _ in range(_TRIES):
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # removed in the meantime
            descriptor = _take(folder)
            if descriptor is None or _is_at(descriptor, folder):
                return descriptor
            _release(descriptor)
    return None


def _is_at(descriptor: int, folder: Path) -> bool:
    """Return whether the path still leads to the folder that was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False


if sys.platform != "win32":
    import fcntl

    def _take(folder: Path) -> int | None:
        """Hold a folder by the descriptor returned; None: the file system has no locks.

        Raises:
            BlockingIOError: another block holds it.
        """
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
        """Hold nothing: Windows has no such locks of folders."""
        del folder

    def _release(descriptor: int) -> None:
        os.close(descriptor)

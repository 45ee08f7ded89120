"""Folders that one process at a time may write to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tcm_lab.errors import FileError

_TRIES = 100  # each of which another block may cross by removing the folder that it had made


class HeldError(FileError):
    """Another block holds a folder.

    Args:
        folder: which.
        refusal: what the message says.
    """

    def __init__(self, folder: Path, refusal: str) -> None:
        super().__init__(f"{folder}: {refusal}")
        self.folder = folder


@contextmanager
def held(folder: Path, refusal: str) -> Iterator[None]:
    """Hold a folder while the block runs, so that no other block does; make it if it is missing.

    The system lets go of it when the process ends, however that is. Windows and some network file
    systems hold nothing.

    Args:
        folder: the folder; one that was made here and stays empty is removed again.
        refusal: what the message says where another holds it.

    Raises:
        HeldError: another block holds it.
        FileError: it can't be made or read.
    """
    is_new = not folder.exists()
    try:
        descriptor = _make_and_take(folder)
    except BlockingIOError:
        raise HeldError(folder, refusal) from None
    except OSError as error:
        raise FileError(
            f"{folder}: cannot be made ({error.strerror or error}). Name another folder."
        ) from error
    try:
        yield
    finally:
        if is_new:  # and still held, so that no other block has begun in it
            with suppress(OSError):  # it holds something, as it should
                folder.rmdir()
        if descriptor is not None:
            _release(descriptor)


def is_held(folder: Path) -> bool:
    """Say whether a block holds a folder now."""
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
    """Return what holds a folder, None if nothing can; BlockingIOError if another does."""
    for _ in range(_TRIES):
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # it was removed since
            descriptor = _take(folder)
            if descriptor is None or _is_at(descriptor, folder):
                return descriptor
            _release(descriptor)
    return None


def _is_at(descriptor: int, folder: Path) -> bool:
    """Say whether what was opened is still what the path leads to."""
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False


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

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
        FileError: another block holds it, or it can't be made.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = None if sys.platform == "win32" else os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise FileError(
            f"{folder}: cannot be made ({error.strerror or error}). Name another folder."
        ) from error
    try:
        if descriptor is not None:
            _lock(descriptor, f"{folder}: {refusal}")
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
        if is_new:
            with suppress(OSError):  # it holds something, as it should
                folder.rmdir()


def _lock(descriptor: int, refusal: str) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileError(refusal) from None
    except OSError:  # a file system without locks
        return

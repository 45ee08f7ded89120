"""Running one slow, pure function on another core while this one goes on."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Aside(Generic[T]):
    """A call that runs in a forked child where that is safe, and here when it is asked for.

    The child works on this process's memory as it is now, so a model need not be sent; only the
    result is, pickled through a pipe.

    Args:
        function: computes the result; touches no GPU and starts no threads.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._child, self._pipe = _fork(function) if _may_fork() else (0, -1)

    def result(self) -> T:
        """Return what the function returns; if the child fails, call it here, errors and all."""
        if not self._child:
            return self._function()
        with os.fdopen(self._pipe, "rb") as pipe:
            sent = pipe.read()
        _, status = os.waitpid(self._child, 0)
        if status != 0:
            return self._function()
        result: T = pickle.loads(sent)
        return result


def _may_fork() -> bool:
    """Say whether a fork is safe and gains something."""
    return (
        sys.platform == "linux"
        and len(os.sched_getaffinity(0)) > 1
        and threading.active_count() == 1
        and not torch.cuda.is_initialized()
    )


def _fork(function: Callable[[], T]) -> tuple[int, int]:
    """Start the child; return its process number and the pipe that it answers through."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Idle threads of numerical libraries are no danger: the child computes shapes only.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    failed = 1
    try:
        os.close(reading)
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(function(), pipe)
        failed = 0
    finally:
        # Without clean-up: files, locks and exit handlers belong to the parent.
        os._exit(failed)

"""Several workers on one machine: a process each, pinned to its GPU, ended together."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

import torch

from tcm_lab.errors import LabError
from tcm_lab.study.context import Event, OnEvent, PackedStudy, StudyContext
from tcm_lab.study.worker import work

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

_PATIENCE_S = 120.0


def run_workers(context: StudyContext, count: int, on_event: OnEvent) -> None:
    """Work on a study with ``count`` processes, or in this one.

    If a worker is killed, another one resumes its training from the last checkpoint.

    Raises:
        LabError: a worker failed in a way that ends the study, or all of them were killed.
        KeyboardInterrupt: Ctrl-C, after every worker has saved its state.
    """
    if count == 1:
        torch.set_num_threads(context.threads)
        work(context, 0, on_event)
        return
    pool = _Pool(context, count, on_event)
    try:
        pool.listen()
    except BaseException:
        pool.interrupt()
        raise
    if pool.error is not None:
        raise pool.error
    if pool.killed == count:
        raise LabError(
            "every worker was killed, perhaps for lack of memory. Rerun the command with fewer "
            "--workers to resume."
        )


class _Pool:
    """The processes and their reports, each through a pipe of its own.

    A queue would be shared, and a worker that is killed while it writes would lock it for all.
    """

    def __init__(self, context: StudyContext, count: int, on_event: OnEvent) -> None:
        self.on_event = on_event
        self.error: Exception | None = None
        self.killed = 0
        self.workers: dict[Connection, tuple[int, SpawnProcess]] = {}
        spawn, packed = get_context("spawn"), context.packed()
        gpus = visible_gpus()
        before = signal.getsignal(signal.SIGINT)
        # A child must not die of a Ctrl-C before it can save; it listens once it is ready.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with _environment() as environment:
            environment["OMP_NUM_THREADS"] = str(context.threads)
            for index in range(count):
                if gpus:
                    environment["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
                ours, theirs = spawn.Pipe(duplex=False)
                process = spawn.Process(target=_child, args=(packed, index, theirs), daemon=True)
                process.start()
                theirs.close()
                self.workers[ours] = (index, process)
        signal.signal(signal.SIGINT, before)

    def listen(self) -> None:
        """Pass events on until all workers have ended, or one has failed."""
        while self.workers:
            for ready in wait(list(self.workers)):
                assert isinstance(ready, Connection)
                self._receive(ready)
            if self.error is not None:
                self.interrupt()
                return

    def _receive(self, connection: Connection) -> None:
        index, process = self.workers[connection]
        try:
            received = connection.recv()
        except (EOFError, OSError):
            del self.workers[connection]
            process.join(_PATIENCE_S)
            if process.exitcode not in (0, None):
                self.killed += 1
                why = f"killed (exit code {process.exitcode}); another worker resumes its training"
                self.on_event(Event("killed", index, label=f"worker {index + 1}", text=why))
            return
        if isinstance(received, Event):
            self.on_event(received)
        elif self.error is None:
            is_ours, message = received
            self.error = LabError(message) if is_ours else RuntimeError(message)

    def interrupt(self) -> None:
        """Let every worker save its state and end; one that takes too long is killed."""
        for _, process in self.workers.values():
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGINT)
        deadline = time.monotonic() + _PATIENCE_S
        for connection, (_, process) in self.workers.items():
            while process.is_alive() and time.monotonic() < deadline:
                try:  # a worker that waits for a full pipe would never end
                    if connection.poll(0.1):
                        connection.recv()
                except (EOFError, OSError):
                    process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
        self.workers.clear()


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(index) for index in range(count)]


@contextmanager
def _environment() -> Iterator[MutableMapping[str, str]]:
    """Let the block change the environment that its child processes inherit."""
    before = dict(os.environ)
    try:
        yield os.environ
    finally:
        os.environ.clear()
        os.environ.update(before)


def _child(packed: PackedStudy, index: int, connection: Connection) -> None:
    """Be a worker; only its first interrupt acts, so that none hits it while it saves or exits."""
    os.setpgrp()  # Ctrl-C reaches the parent alone, which passes it on once
    signal.signal(signal.SIGINT, _interrupt_once)
    with suppress(KeyboardInterrupt, OSError):  # of an interrupt, or without a parent
        failed = _work(packed, index, connection)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if failed is not None:
            connection.send(failed)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt_once(*_: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _work(packed: PackedStudy, index: int, connection: Connection) -> tuple[bool, str] | None:
    """Return what the worker failed with, if it did, and whether it is for the user to mend."""

    def on_event(event: Event) -> None:
        try:
            connection.send(event)
        except OSError:  # the parent is gone; the training resumes when the command is rerun
            raise KeyboardInterrupt from None

    try:
        context = packed.unpack()
        torch.set_num_threads(context.threads)
        work(context, index, on_event)
    except LabError as error:
        return True, str(error)
    except Exception:  # whatever it is, the parent raises it
        return False, traceback.format_exc()
    return None

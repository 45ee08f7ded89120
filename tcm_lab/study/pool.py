"""Several workers on one machine: a process each, pinned to its GPU, ended together."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import NoReturn, cast

import torch

from tcm_lab.errors import LabError
from tcm_lab.study.capacity import visible_gpus
from tcm_lab.study.context import Event, OnEvent, StudyContext
from tcm_lab.study.worker import work

_PATIENCE_S = 120.0

Workers = dict[Connection, tuple[int, SpawnProcess]]
"""Each worker's number and process by its own pipe.

A queue would be shared, and a worker that is killed while it writes would lock it for all.
"""


def run_workers(context: StudyContext, count: int, on_event: OnEvent) -> None:
    """Work on a study with ``count`` processes, or in this one.

    If a worker is killed, another one resumes its training from the last checkpoint.

    Raises:
        LabError: a worker failed in a way that ends the study, or all of them were killed.
        KeyboardInterrupt: Ctrl-C, after every worker has saved its state.
    """
    if count == 1:
        before = torch.get_num_threads()
        torch.set_num_threads(context.threads)
        try:
            work(context, 0, on_event)
        finally:
            torch.set_num_threads(before)
        return
    workers = _start(context, count)
    try:
        _listen(workers, on_event)
    except BaseException:
        _interrupt(workers)
        raise


def _start(context: StudyContext, count: int) -> Workers:
    workers: Workers = {}
    spawn, gpus = get_context("spawn"), visible_gpus()
    with _inherited():
        os.environ["OMP_NUM_THREADS"] = str(context.threads)
        for index in range(count):
            if gpus:
                os.environ["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
            ours, theirs = spawn.Pipe(duplex=False)
            process = spawn.Process(target=_child, args=(context, index, theirs), daemon=True)
            process.start()
            theirs.close()
            workers[ours] = (index, process)
    return workers


def _listen(workers: Workers, on_event: OnEvent) -> None:
    """Pass events on until all workers have ended; raise what one of them fails with."""
    count, killed = len(workers), 0
    while workers:
        for connection in cast("list[Connection]", wait(list(workers))):
            index, process = workers[connection]
            try:
                received = connection.recv()
            except (EOFError, OSError):
                del workers[connection]
                process.join(_PATIENCE_S)
                if code := process.exitcode:
                    killed += 1
                    why = f"killed (exit code {code}); another worker resumes its training"
                    on_event(Event("killed", index, label=f"worker {index + 1}", text=why))
                continue
            if isinstance(received, Exception):
                raise received
            on_event(received)
    if killed == count:
        raise LabError(
            "every worker was killed, perhaps for lack of memory. Rerun the command with fewer "
            "--workers to resume."
        )


def _interrupt(workers: Workers) -> None:
    """Let every worker save its state and end; one that takes too long is killed."""
    for connection, (_, process) in workers.items():
        # On Windows a console's Ctrl-C reaches every process of its own accord.
        if sys.platform != "win32" and process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGINT)
        connection.close()  # so that one ends by its first report if it does not listen yet
    deadline = time.monotonic() + _PATIENCE_S
    for _, process in workers.values():
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()


@contextmanager
def _inherited() -> Iterator[None]:
    """Restore after the block what child processes inherit: environment and SIGINT, ignored here.

    A Ctrl-C must not end a child before it can save; it listens once it is ready.
    """
    environment, handler = dict(os.environ), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        signal.signal(signal.SIGINT, handler)


def _child(context: StudyContext, index: int, connection: Connection) -> None:
    """Be a worker; only its first interrupt acts, so that none hits it while it saves or exits."""
    if sys.platform != "win32":
        os.setpgrp()  # Ctrl-C reaches the parent alone, which passes it on once
    signal.signal(signal.SIGINT, _interrupt_once)
    with suppress(KeyboardInterrupt, OSError):  # of an interrupt, or without a parent
        failed = _work(context, index, connection)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if failed is not None:
            connection.send(failed)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt_once(*_: object) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _work(context: StudyContext, index: int, connection: Connection) -> Exception | None:
    """Return what the worker failed with, if it did."""

    def on_event(event: Event) -> None:
        try:
            connection.send(event)
        except OSError:  # the parent is gone; the training resumes when the command is rerun
            _interrupt_once()

    try:
        torch.set_num_threads(context.threads)
        work(context, index, on_event)
    except LabError as error:
        return LabError(str(error))
    except Exception:  # whatever it is, the parent raises it
        return RuntimeError(traceback.format_exc())
    return None

"""Several workers on one machine: one process each, pinned to a GPU, ended together."""

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
"""Number and process of each worker, by its own pipe.

A worker that is killed while writing to a shared queue would lock it for all.
"""


def run_workers(context: StudyContext, count: int, on_event: OnEvent) -> None:
    """Work on a study with ``count`` processes; with one worker, in this process.

    If a worker is killed, another one resumes its training from the last checkpoint.

    Raises:
        LabError: a worker failed with an error that ends the study, or all workers were killed.
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
    """Forward events until all workers have ended; raise the error that one of them fails with."""
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
            "every worker was killed, perhaps because memory ran out. To resume, rerun the command "
            "with fewer --workers."
        )


def _interrupt(workers: Workers) -> None:
    """Let every worker save its state and end; kill any that takes too long."""
    for connection, (_, process) in workers.items():
        # On Windows, the console's Ctrl-C reaches every process anyway.
        if sys.platform != "win32" and process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGINT)
        connection.close()  # a worker that does not handle signals yet ends at its first report
    deadline = time.monotonic() + _PATIENCE_S
    for _, process in workers.values():
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()


@contextmanager
def _inherited() -> Iterator[None]:
    """Ignore SIGINT in the block; afterwards restore its handler and the environment.

    Child processes inherit both. Ctrl-C must not end a child before it can save its state; the
    child handles the signal once it is ready.
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
    """Run a worker; only its first interrupt counts, so none hits it while it saves or exits."""
    if sys.platform != "win32":
        os.setpgrp()  # Ctrl-C then reaches only the parent, which forwards it once
    signal.signal(signal.SIGINT, _interrupt_once)
    with suppress(KeyboardInterrupt, OSError):  # interrupted, or the parent is gone
        error = _work(context, index, connection)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if error is not None:
            connection.send(error)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt_once(*_: object) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _work(context: StudyContext, index: int, connection: Connection) -> Exception | None:
    """Run the worker's loop, and return the error that it failed with, if any."""

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
    except Exception:  # the parent raises it, whatever it is
        return RuntimeError(traceback.format_exc())
    return None

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

from tcm_lab.errors import LabError
from tcm_lab.study.plan import Event, Plan, Tell

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

_PATIENCE_S = 120.0


def run_workers(plan: Plan, count: int, tell: Tell) -> None:
    """Work on a study with ``count`` processes, or right here with one.

    A worker that is killed loses its training to the others, which take it up from its last
    checkpoint.

    Raises:
        LabError: a worker met something that ends the study, or all of them were killed.
        KeyboardInterrupt: Ctrl-C, after every worker has saved its state.
    """
    if count == 1:
        import torch

        from tcm_lab.study.worker import work

        torch.set_num_threads(plan.threads)
        work(plan, 0, tell)
        return
    pool = _Pool(plan, count, tell)
    try:
        pool.listen()
    except BaseException:
        pool.interrupt()
        raise
    if pool.error is not None:
        raise pool.error
    if pool.killed == count:
        raise LabError(
            "every worker was killed, perhaps for want of memory. Call again with fewer --workers; "
            "the study goes on where it stopped."
        )


class _Pool:
    """The processes and what they say, each through a pipe of its own.

    A queue would be shared, and a worker that is killed while it writes would lock it for all.
    """

    def __init__(self, plan: Plan, count: int, tell: Tell) -> None:
        self.tell = tell
        self.error: Exception | None = None
        self.killed = 0
        self.workers: dict[Connection, tuple[int, SpawnProcess]] = {}
        context = get_context("spawn")
        gpus = visible_gpus()
        before = signal.getsignal(signal.SIGINT)
        # A child must not die of a Ctrl-C before it can save; it listens once it is ready.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with _environment() as environment:
            environment["OMP_NUM_THREADS"] = str(plan.threads)
            for index in range(count):
                if gpus:
                    environment["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(plan, index, theirs), daemon=True)
                process.start()
                theirs.close()
                self.workers[ours] = (index, process)
        signal.signal(signal.SIGINT, before)

    def listen(self) -> None:
        """Pass on what the workers say until they have ended, or one has failed."""
        while self.workers:
            for ready in wait(list(self.workers)):
                assert isinstance(ready, Connection)
                self._hear(ready)
            if self.error is not None:
                self.interrupt()
                return

    def _hear(self, connection: Connection) -> None:
        index, process = self.workers[connection]
        try:
            said = connection.recv()
        except (EOFError, OSError):
            del self.workers[connection]
            process.join(_PATIENCE_S)
            if process.exitcode not in (0, None):
                self.killed += 1
                why = f"killed (exit code {process.exitcode}); the others take its training up"
                self.tell(Event("killed", index, label=f"worker {index + 1}", text=why))
            return
        if isinstance(said, Event):
            self.tell(said)
        elif self.error is None:
            is_ours, message = said
            self.error = LabError(message) if is_ours else RuntimeError(message)

    def interrupt(self) -> None:
        """Let every worker save and end; whoever does not in time is killed."""
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
    import torch

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


def _child(plan: Plan, index: int, connection: Connection) -> None:
    """Be a worker."""
    os.setpgrp()  # Ctrl-C reaches the parent alone, which passes it on once
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import torch

    torch.set_num_threads(plan.threads)

    def tell(event: Event) -> None:
        try:
            connection.send(event)
        except OSError:  # the parent is gone; the training goes on when the study is called again
            raise KeyboardInterrupt from None

    from tcm_lab.study.worker import work

    try:
        work(plan, index, tell)
    except KeyboardInterrupt:
        return
    except LabError as error:
        failed = (True, str(error))
    except Exception:  # whatever it is, the parent raises it
        failed = (False, traceback.format_exc())
    else:
        return
    with suppress(OSError):  # the parent is gone
        connection.send(failed)

"""Workers as jobs of a SLURM cluster, through submitit; each runs the same code as elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from tcm_lab.errors import LabError, first_line
from tcm_lab.study.capacity import worker_count
from tcm_lab.study.context import Event, StudyContext
from tcm_lab.study.run import fill_queue
from tcm_lab.study.worker import work

_LIMIT_MINUTES = 24 * 60


@dataclass(frozen=True)
class SlurmJob:
    """One worker on a node; submitit calls it, and calls it again after a time limit."""

    context: StudyContext
    index: int

    def __call__(self) -> None:
        """Train variants until none is left."""
        threads = os.environ.get("SLURM_CPUS_PER_TASK", self.context.threads)
        torch.set_num_threads(int(threads))
        work(self.context, self.index, _print)

    def checkpoint(self, *_: Any, **__: Any) -> Any:
        """Request another job when the time is up; it resumes the training from its last state."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit_study(
    context: StudyContext, workers: int | None = None, options: Sequence[str] = ()
) -> list[Any]:
    """Queue a study's trainings, and submit workers, each with a GPU, to do them.

    Args:
        context: the study; its folder must be on a file system that the nodes share.
        workers: number of jobs; one by default.
        options: ``name=value`` for the cluster's own parameters, such as ``partition=gpu`` or
            ``timeout_min=720``.

    Returns:
        submitit's jobs.

    Raises:
        LabError: submitit, SLURM or a database server is missing, ``workers`` is below 1, or an
            option is not ``name=value``; otherwise as ``run_study``.
    """
    jobs = 1 if workers is None else worker_count(workers)
    try:
        import submitit
    except ModuleNotFoundError:
        raise LabError(
            "launcher slurm: submitit is missing. pip install 'tcm-lab[slurm]'."
        ) from None
    parameters: dict[str, Any] = {"timeout_min": _LIMIT_MINUTES, "name": f"tcm-{context.name}"}
    for option in options:
        name, found, value = option.partition("=")
        if not found:
            raise LabError(f"slurm option {option!r}: write name=value, such as partition=gpu.")
        parameters[name] = int(value) if value.isdigit() else value
    cluster = parameters.pop("cluster", "slurm")
    if cluster == "slurm":
        if context.storage.startswith("sqlite"):
            raise LabError(
                "launcher slurm: an SQLite file can't be shared between nodes. Give --storage "
                "postgresql+psycopg://USER@HOST/DATABASE."
            )
        parameters.setdefault("slurm_gpus_per_node", 1)
        parameters.setdefault("slurm_cpus_per_task", max(context.threads, 1))
    with _submitit_errors():
        executor = submitit.AutoExecutor(folder=context.out / "slurm", cluster=cluster)
        executor.update_parameters(**parameters)
    fill_queue(context)
    with _submitit_errors():
        return [executor.submit(SlurmJob(context, index)) for index in range(jobs)]


@contextmanager
def _submitit_errors() -> Iterator[None]:
    """Turn the block's errors into `LabError`: refused options, or no SLURM."""
    try:
        yield
    except (AssertionError, NameError, ValueError) as error:  # how submitit refuses options
        reason = first_line(error).rstrip(".")
        raise LabError(f"slurm option: {reason}. Correct it, or leave it out.") from error
    except (RuntimeError, FileNotFoundError) as error:
        reason = first_line(error).rstrip(".")
        raise LabError(
            f"launcher slurm: {reason}. Submit from a node where sbatch works."
        ) from error


def _print(event: Event) -> None:
    if event.kind != "progress":
        text, encoding = f"{event.kind} {event.label} {event.text}", sys.stdout.encoding or "utf-8"
        print(text.encode(encoding, "replace").decode(encoding), flush=True)

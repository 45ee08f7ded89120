"""Workers as jobs of a SLURM cluster, by submitit; each is the same worker as anywhere else."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tcm_lab.errors import LabError
from tcm_lab.study.context import Event, PackedStudy, StudyContext
from tcm_lab.study.worker import work

if TYPE_CHECKING:
    from collections.abc import Sequence

_LIMIT_MINUTES = 24 * 60


@dataclass(frozen=True)
class SlurmJob:
    """One worker that a node runs; submitit calls it, and again after a time limit.

    Attributes:
        packed: the study.
        index: which of its workers.
    """

    packed: PackedStudy
    index: int

    def __call__(self) -> None:
        """Train variants until none is left."""
        context = self.packed.unpack()
        torch.set_num_threads(int(os.environ.get("SLURM_CPUS_PER_TASK", context.threads)))
        work(context, self.index, _print)

    def checkpoint(self, *_: Any, **__: Any) -> Any:
        """Ask for another job when the time is up; it resumes the training from its last state."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit_workers(context: StudyContext, count: int, options: Sequence[str] = ()) -> list[Any]:
    """Submit ``count`` workers with a GPU each and return submitit's jobs.

    Args:
        context: the study; its folder must be on a file system that the nodes share.
        count: jobs.
        options: ``name=value`` for the cluster's own parameters, such as ``partition=gpu`` or
            ``timeout_min=720``.

    Raises:
        LabError: submitit or SLURM is missing, or an option is not ``name=value``.
    """
    try:
        import submitit
    except ModuleNotFoundError:
        raise LabError(
            "launcher slurm: submitit is missing. pip install 'tcm-lab[slurm]'."
        ) from None
    cluster = "slurm"
    parameters: dict[str, Any] = {"timeout_min": _LIMIT_MINUTES, "name": f"tcm-{context.name}"}
    for option in options:
        name, found, value = option.partition("=")
        if not found:
            raise LabError(f"slurm option {option!r}: write name=value, such as partition=gpu.")
        if name == "cluster":
            cluster = value
        else:
            parameters[name] = int(value) if value.isdigit() else value
    if cluster == "slurm":
        parameters.setdefault("slurm_gpus_per_node", 1)
        parameters.setdefault("slurm_cpus_per_task", max(context.threads, 1))
    packed = context.packed()
    try:
        executor = submitit.AutoExecutor(folder=context.out / "slurm", cluster=cluster)
        executor.update_parameters(**parameters)
        return [executor.submit(SlurmJob(packed, index)) for index in range(count)]
    except (RuntimeError, FileNotFoundError, NameError, ValueError) as error:
        raise LabError(
            f"launcher slurm: {str(error).splitlines()[0]}. Submit from a node where sbatch works."
        ) from error


def _print(event: Event) -> None:
    if event.kind != "progress":
        print(f"{event.kind} {event.label} {event.text}", flush=True)

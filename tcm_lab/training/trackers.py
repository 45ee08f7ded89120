"""Where a training's metrics go beside its own CSV file: TensorBoard, MLflow, W&B, trackio.

A tracker is anything with three methods. Those here are thin: a library's own environment variables
and configuration decide where its data lie, and a resumed training continues its run.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from tcm_lab._utils.files import write_atomically
from tcm_lab.errors import LabError, lookup

PROJECT = "tcm-lab"


@dataclass(frozen=True)
class TrackedRun:
    """A training as trackers know it.

    Attributes:
        name: of the run.
        directory: of the training; what a tracker keeps to continue its run lies there.
        settings: of the recipe, by name.
        step: steps that an earlier part has done.
    """

    name: str
    directory: Path
    settings: Mapping[str, Any]
    step: int


class Tracker(Protocol):
    """Receives a training's metrics; one that raises gets no more of them, and training goes on."""

    def begin(self, run: TrackedRun) -> None:
        """Begin a run, or continue the one of an earlier part."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take the metrics of a step."""

    def end(self) -> None:
        """End the run; nothing that was logged is lost."""


class _ByLibrary:
    """A tracker that is a thin cover of a library, by its module and its extra of this package."""

    module: ClassVar[str]
    extra: ClassVar[str]

    def library(self) -> Any:
        """Return the library.

        Raises:
            LabError: it is not installed; the message says how to install it.
        """
        try:
            return importlib.import_module(self.module)
        except ImportError:
            raise LabError(
                f'--track {self.extra}: is not installed; pip install "tcm-lab[{self.extra}]".'
            ) from None


def check_libraries(trackers: Sequence[Tracker]) -> None:
    """Refuse trackers whose library is missing, before anything is trained for them.

    Raises:
        LabError: one is; the message says how to install it.
    """
    for tracker in trackers:
        if isinstance(tracker, _ByLibrary):
            tracker.library()


class TensorBoard(_ByLibrary):
    """Event files in the training's folder."""

    module = "torch.utils.tensorboard"
    extra = "tensorboard"

    def begin(self, run: TrackedRun) -> None:
        """Open the files; what was logged after the step is dropped."""
        tensorboard = self.library()
        folder = str(run.directory / "tensorboard")
        self._writer = tensorboard.SummaryWriter(folder, purge_step=run.step + 1)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write the metrics, so that a process that is killed takes nothing with it."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def end(self) -> None:
        """Close the files; ``log`` has warned of what could not be written."""
        with suppress(OSError):
            self._writer.close()


class MLflow(_ByLibrary):
    """A run of MLflow's, in the store that ``MLFLOW_TRACKING_URI`` names."""

    module = "mlflow"
    extra = "mlflow"

    def begin(self, run: TrackedRun) -> None:
        """Create the run, or open the one whose identifier lies in the folder."""
        self._client = self.library().MlflowClient()
        kept = run.directory / "mlflow.run"
        if run.step and kept.is_file():
            self._run = kept.read_text(encoding="utf-8").strip()
            return
        experiment = self._client.get_experiment_by_name(PROJECT)
        where = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
        self._run = self._client.create_run(where, run_name=run.name).info.run_id
        for name, value in run.settings.items():
            self._client.log_param(self._run, name, value)
        write_atomically(kept, f"{self._run}\n")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Send the metrics."""
        for name, value in metrics.items():
            self._client.log_metric(self._run, name, value, step=step)

    def end(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._run)


class WandB(_ByLibrary):
    """A run of Weights & Biases, offline unless ``WANDB_MODE`` says otherwise."""

    module = "wandb"
    extra = "wandb"

    def begin(self, run: TrackedRun) -> None:
        """Begin the run in the training's folder; ``wandb sync`` uploads it."""
        self._run = self.library().init(
            project=PROJECT,
            name=run.name,
            id=_identifier(run, "wandb.run"),
            resume="allow",
            dir=str(run.directory),
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=dict(run.settings),
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the metrics."""
        self._run.log(dict(metrics), step=step)

    def end(self) -> None:
        """Finish the run."""
        self._run.finish()


class Trackio(_ByLibrary):
    """A run of trackio's, in the database below ``TRACKIO_DIR``."""

    module = "trackio"
    extra = "trackio"

    def begin(self, run: TrackedRun) -> None:
        """Begin the run, or continue it."""
        self._library = self.library()
        name = f"{run.name}-{_identifier(run, 'trackio.run')[:6]}"
        self._library.init(project=PROJECT, name=name, resume="allow", config=dict(run.settings))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the metrics."""
        self._library.log(dict(metrics), step=step)

    def end(self) -> None:
        """Finish the run."""
        self._library.finish()


TRACKERS: Mapping[str, Callable[[], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
    "trackio": Trackio,
}
"""Trackers by name."""


def open_trackers(names: Sequence[str]) -> list[Tracker]:
    """Return trackers by name, none begun.

    Raises:
        LabError: no tracker has the name.
    """
    return [lookup(TRACKERS, name, "tracker")() for name in dict.fromkeys(names)]


def _identifier(run: TrackedRun, file: str) -> str:
    """Return the identifier of a run that may be continued; it is kept in the folder."""
    kept = run.directory / file
    if not (run.step and kept.is_file()):
        write_atomically(kept, f"{os.urandom(8).hex()}\n")
    return kept.read_text(encoding="utf-8").strip()

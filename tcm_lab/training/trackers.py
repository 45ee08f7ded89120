"""Trackers that receive a training's metrics in addition to its CSV file.

They are TensorBoard, MLflow, Weights & Biases and trackio. A tracker is any object with three
methods. Those here are thin: a library's own environment variables and configuration determine
where its data are stored, and a resumed training continues its run.
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
        name: name of the run.
        directory: folder of the training; trackers store there what they need to continue the run.
        settings: fields of the recipe by name.
        step: steps done by earlier parts.
    """

    name: str
    directory: Path
    settings: Mapping[str, Any]
    step: int


class Tracker(Protocol):
    """Receives a training's metrics.

    If it raises, it is dropped with a warning, and the training continues. Only a requested tracker
    that can't begin its run is an error, since nothing has been trained yet.
    """

    def begin(self, run: TrackedRun) -> None:
        """Begin a run, or continue that of an earlier part."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the metrics of a step."""

    def end(self) -> None:
        """End the run without losing anything that was logged."""


class _ByLibrary:
    """A thin wrapper of a tracking library, given by its module and the package's extra."""

    module: ClassVar[str]
    extra: ClassVar[str]

    def library(self) -> Any:
        """Return the library.

        Raises:
            LabError: the library is not installed; the message says how to install it.
        """
        try:
            return importlib.import_module(self.module)
        except ImportError:
            raise LabError(
                f'--track {self.extra}: is not installed; pip install "tcm-lab[{self.extra}]".'
            ) from None


def check_libraries(trackers: Sequence[Tracker]) -> None:
    """Refuse trackers whose library is missing, before any training.

    Raises:
        LabError: a library is missing; the message says how to install it.
    """
    for tracker in trackers:
        if isinstance(tracker, _ByLibrary):
            tracker.library()


class TensorBoard(_ByLibrary):
    """Event files in the training's folder."""

    module = "torch.utils.tensorboard"
    extra = "tensorboard"

    def begin(self, run: TrackedRun) -> None:
        """Open the files, and drop metrics logged after the step."""
        tensorboard = self.library()
        folder = str(run.directory / "tensorboard")
        self._writer = tensorboard.SummaryWriter(folder, purge_step=run.step + 1)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write the metrics and flush them, so that a killed process loses none."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def end(self) -> None:
        """Close the files; write errors have already been raised by ``log``."""
        with suppress(OSError):
            self._writer.close()


class MLflow(_ByLibrary):
    """A run of MLflow in the store named by ``MLFLOW_TRACKING_URI``."""

    module = "mlflow"
    extra = "mlflow"

    def begin(self, run: TrackedRun) -> None:
        """Create the run, or open the run whose identifier is stored in the folder."""
        self._client = client = self.library().MlflowClient()
        path = run.directory / "mlflow.run"
        if run.step and path.is_file():
            self._run = path.read_text(encoding="utf-8").strip()
            return
        existing = client.get_experiment_by_name(PROJECT)
        experiment = existing.experiment_id if existing else client.create_experiment(PROJECT)
        self._run = client.create_run(experiment, run_name=run.name).info.run_id
        for name, value in run.settings.items():
            client.log_param(self._run, name, value)
        write_atomically(path, f"{self._run}\n")

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
    """A run of trackio in the database under ``TRACKIO_DIR``."""

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
    """Return trackers by name, before their runs begin.

    Raises:
        LabError: no tracker has the name.
    """
    return [lookup(TRACKERS, name, "tracker")() for name in dict.fromkeys(names)]


def _identifier(run: TrackedRun, file: str) -> str:
    """Return the identifier of a run, stored in the folder so that the run can be continued."""
    path = run.directory / file
    if not (run.step and path.is_file()):
        write_atomically(path, f"{os.urandom(8).hex()}\n")
    return path.read_text(encoding="utf-8").strip()

"""What a training measures and reports: means, progress, a log and a final record."""

from __future__ import annotations

import csv
import importlib.util
import io
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tcm_lab._utils import Frozen
from tcm_lab._utils.environment import Environment
from tcm_lab._utils.files import write_atomically
from tcm_lab._utils.progress import progress
from tcm_lab.errors import FileError, LabError
from tcm_lab.training.recipe import Recipe
from tcm_lab.training.trackers import TensorBoard, TrackedRun, Tracker

if TYPE_CHECKING:
    from lightning_fabric import Fabric

logger = logging.getLogger(__name__)

_CURVE_POINTS = 400


def _columns(recipe: Recipe) -> tuple[str, ...]:
    """Return the columns of a training's log."""
    always = ("step", "loss", "bpp", "mse", "psnr_db", "aux", "gradient_norm", "lr", "images_per_s")
    return (*always, "log_loss", "cca") if recipe.cca else (*always, "log_loss")


@dataclass(frozen=True)
class TrainingProgress:
    """Means since the last report.

    Attributes:
        step: steps done.
        steps: total number of steps.
        loss: lambda D + bpp.
        bpp: estimated bits per pixel.
        psnr_db: PSNR of the mean squared error.
        images_per_s: crops per second over all processes.
        remaining_s: seconds left at the current pace.
        phase: phase before the recipe's own steps, such as ``linear phase``; "" for these.
    """

    step: int
    steps: int
    loss: float
    bpp: float
    psnr_db: float
    images_per_s: float
    remaining_s: float
    phase: str = ""

    @property
    def text(self) -> str:
        """The metrics on one line."""
        phase = f"{self.phase}  " if self.phase else ""
        return (
            f"{phase}loss {self.loss:6.3f}  {self.bpp:5.3f} bpp  {self.psnr_db:5.2f} dB  "
            f"{self.images_per_s:5.1f} images/s"
        )


def psnr_db(mse: float) -> float:
    """Return the PSNR of a mean squared error of images in [0, 1]; at most 100 dB."""
    return -10 * math.log10(max(mse, 1e-10))


OnProgress = Callable[[TrainingProgress], None]


@contextmanager
def progress_line(title: str) -> Iterator[OnProgress]:
    """Show a bar with the metrics and the remaining time on stderr while the block runs.

    A file or a cluster's log gets a line every twenty seconds.
    """
    with progress(f"{title}, step") as show:
        yield lambda state: show(state.step, state.steps, state.text, state.remaining_s)


class Meter:
    """Sums of metrics, kept on the device until they are reported.

    Args:
        recipe: determines the metrics.
        fabric: the processes over which means are taken.
    """

    def __init__(self, recipe: Recipe, fabric: Fabric) -> None:
        always = ("loss", "bpp", "mse", "aux", "gradient_norm", "log_loss")
        self._names = (*always, "cca") if recipe.cca else always
        self._fabric = fabric
        self._window = torch.zeros(len(self._names) + 1, device=fabric.device)
        self._row = self._nothing()
        self._tail = self._nothing()

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add a step's metrics."""
        row = [values[name] for name in self._names]
        self._window += torch.stack([*row, torch.ones_like(row[0])])

    def is_finite(self) -> bool:
        """Return whether every metric since the last report is finite."""
        return bool(self._window.isfinite().all())

    def report(self, *, counts: bool) -> dict[str, float]:
        """Return the means since the last report over all processes, and reset them.

        ``steps`` is the number of steps.

        Args:
            counts: whether these steps belong to the tail.
        """
        reduced = self._fabric.all_reduce(self._window, reduce_op="mean")
        assert isinstance(reduced, Tensor)
        sums: list[float] = reduced.tolist()
        self._window.zero_()
        self._row = _sums(self._row, sums)
        if counts:
            self._tail = _sums(self._tail, sums)
        return {**self._means(sums), "steps": sums[-1]}

    def row(self) -> dict[str, float]:
        """Return the means over all reports since the last row."""
        means, self._row = self._means(self._row), self._nothing()
        return means

    def tail(self) -> dict[str, float]:
        """Return the means over the tail, the last steps of the training."""
        return self._means(self._tail)

    def _means(self, sums: Sequence[float]) -> dict[str, float]:
        return {name: total / sums[-1] for name, total in zip(self._names, sums, strict=False)}

    def _nothing(self) -> list[float]:
        return [0.0] * (len(self._names) + 1)

    def facts(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return {"tail": self._tail, "row": self._row, "window": self._window.tolist()}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Restore a state."""
        self._tail = self._complete(facts["tail"])
        self._row = facts.get("row", self._nothing())  # states of earlier versions lack it
        self._window.copy_(torch.tensor(self._complete(facts["window"])))

    def _complete(self, sums: Sequence[float]) -> list[float]:
        """Return the sums with a 0 for the log loss, which states of earlier versions lack."""
        place = self._names.index("log_loss")
        missing = len(sums) == len(self._names)
        return [*sums[:place], 0.0, *sums[place:]] if missing else [*sums]


def _sums(sums: Sequence[float], more: Sequence[float]) -> list[float]:
    return [old + new for old, new in zip(sums, more, strict=True)]


class LinearStart(Frozen):
    """Measurements of a linear start.

    Attributes:
        crops: number of crops used.
        pixels: side of a crop.
        kept: share of the variance of the crops' patches that the latent's components keep; None
            if the codec could not become linear.
        floor_psnr_db: PSNR of the patches restored from these components, unrounded; None if the
            codec could not become linear.
        step: quantisation step for the middle λ, in pixel values (range 1).
        deviation: root mean square of what g_a's stages add to the linear transform, in steps. With
            shortcuts it is 0 if every layer can start as the identity; without, it is what the
            stages' widths and activations change.
        phase_steps: updates of the linear phase; 0 without one.
        phase_wall_s: seconds of the linear phase; close to 0 if its weights came from the cache.
    """

    crops: int
    pixels: int
    kept: float | None
    floor_psnr_db: float | None
    step: float
    deviation: float = 0.0
    phase_steps: int = 0
    phase_wall_s: float = 0.0


class LossCurve(Frozen):
    """The loss during training, as means over consecutive steps.

    Attributes:
        steps: the last step of each mean.
        log_loss: mean over the crops of ln(lambda D + bpp), in which every rate counts equally.
    """

    steps: tuple[int, ...] = ()
    log_loss: tuple[float, ...] = ()

    @classmethod
    def of(cls, rows: Mapping[int, float]) -> LossCurve:
        """Return the curve of means by step, at up to 400 points."""
        known = sorted((step, value) for step, value in rows.items() if math.isfinite(value))
        size = -(-len(known) // _CURVE_POINTS) or 1
        runs = [known[start : start + size] for start in range(0, len(known), size)]
        return cls(
            steps=tuple(run[-1][0] for run in runs),
            log_loss=tuple(round(fmean(value for _, value in run), 6) for run in runs),
        )


class TrainingRecord(Frozen):
    """A finished training, described completely enough to run it again.

    Attributes:
        model: the codec's configuration, or its class name if it has none.
        recipe: the recipe, including its seed.
        steps: updates done.
        processes: number of processes that shared each batch.
        loss: mean of lambda D + bpp over the last twentieth of the steps.
        bpp: mean estimated rate over these steps.
        psnr_db: PSNR of the mean squared error over these steps.
        wall_s: seconds of training, summed over its resumed parts.
        images_per_s: crops per second over the whole of ``wall_s``, which includes the start.
        rollbacks: number of times the training diverged and was rolled back.
        curve: the loss over the steps.
        start: measurements of a linear start; None for another start.
        data_fingerprint: digits that identify the crops.
        skipped: images that were skipped, each with the reason.
        environment: device and versions of the last part.
    """

    model: dict[str, Any] | str
    recipe: Recipe
    steps: int
    processes: int
    loss: float
    bpp: float
    psnr_db: float
    wall_s: float
    images_per_s: float
    rollbacks: int
    curve: LossCurve = LossCurve()
    start: LinearStart | None = None
    data_fingerprint: str
    skipped: tuple[str, ...]
    environment: Environment


class TrainingLog:
    """Rows of metrics as CSV, as TensorBoard events if it is installed, and for trackers.

    Args:
        directory: folder of the files; without one nothing is written.
        step: last step to keep; a resumed training writes later rows again.
        recipe: determines the columns, and is passed to trackers.
        trackers: further receivers of the rows.

    Raises:
        LabError: a file can't be written, or one of ``trackers`` can't begin its run.
    """

    def __init__(
        self,
        directory: Path | None,
        step: int,
        recipe: Recipe,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self._columns = _columns(recipe)
        self._path: Path | None = None
        self._trackers: list[Tracker] = []
        self._log_losses: dict[int, float] = {}
        if directory is None:
            return
        self._path = directory / "log.csv"
        self.rewind(step)
        run = TrackedRun(directory.name, directory, recipe.model_dump(mode="json"), step)
        if importlib.util.find_spec("tensorboard") and TensorBoard not in map(type, trackers):
            automatic = TensorBoard()
            self._trackers.append(automatic)
            self._notify(automatic, partial(automatic.begin, run))
        for tracker in trackers:
            try:
                tracker.begin(run)
            except Exception as error:  # whatever a library or its server raises
                self.close()
                if isinstance(error, LabError):
                    raise
                raise LabError(
                    f"tracker {type(tracker).__name__}: cannot begin its run ({error}). Fix the "
                    "cause, or train without it."
                ) from error
            self._trackers.append(tracker)

    def rewind(self, step: int) -> None:
        """Drop the rows after a step, since they will be written again; trackers keep theirs.

        Raises:
            FileError: the disk is full or the file can't be written.
        """
        if self._path is None:
            self._log_losses = {n: loss for n, loss in self._log_losses.items() if n <= step}
            return
        rows = _rows_until(self._path, self._columns, step)
        self._log_losses = {int(row["step"]): float(row["log_loss"]) for row in rows}
        write_atomically(self._path, _as_csv(rows, self._columns))

    def write(self, row: dict[str, float]) -> None:
        """Append one row.

        Raises:
            FileError: the disk is full or the file can't be written.
        """
        self._log_losses[int(row["step"])] = float(f"{row['log_loss']:.6g}")  # as in the file
        if self._path is None:
            return
        try:
            with self._path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(
                    {n: row[n] if n == "step" else f"{row[n]:.6g}" for n in self._columns}
                )
        except OSError as error:
            raise FileError(
                f"{self._path}: cannot be written ({error.strerror or error}). Free some space; "
                "the last checkpoint is intact and training resumes from it."
            ) from error
        metrics = {name: row[name] for name in self._columns[1:]}
        for tracker in [*self._trackers]:
            self._notify(tracker, partial(tracker.log, metrics, int(row["step"])))

    @property
    def curve(self) -> LossCurve:
        """The loss over the steps, including those before a resumption."""
        return LossCurve.of(self._log_losses)

    def close(self) -> None:
        """End the trackers' runs."""
        for tracker in [*self._trackers]:
            self._notify(tracker, tracker.end)

    def _notify(self, tracker: Tracker, call: Callable[[], None]) -> None:
        """Call a tracker; if it fails, drop it rather than the training."""
        try:
            call()
        except Exception as error:  # whatever a library or its server raises
            self._trackers.remove(tracker)
            logger.warning(
                "tracker %s: failed and receives no more metrics (%s); %s has all of them",
                *(type(tracker).__name__, error, self._path),
            )


def _rows_until(path: Path, columns: Sequence[str], step: int) -> list[dict[str, str]]:
    """Return the rows of an earlier log up to a step, without rows that a killed process cut."""
    if not (step and path.is_file()):
        return []
    with path.open(newline="", errors="replace") as file:
        # Logs of earlier versions have no log loss.
        rows = [{"log_loss": "nan", **row} for row in csv.DictReader(file)]
    valid = [row for row in rows if set(row) == set(columns) and all(map(_is_number, row.values()))]
    return [row for row in valid if row["step"].isdecimal() and int(row["step"]) <= step]


def _is_number(text: str | None) -> bool:
    """Return whether a text is a number, neither missing nor damaged."""
    try:
        float(text or "")
    except ValueError:
        return False
    return True


def _as_csv(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

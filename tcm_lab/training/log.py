"""The training's log: a CSV file, and TensorBoard where it is installed."""

from __future__ import annotations

import csv
import io
from contextlib import suppress
from pathlib import Path
from typing import Any

from tcm_lab._utils.files import write_atomically
from tcm_lab.errors import LabError

FIELDS = ("step", "loss", "bpp", "mse", "psnr_db", "aux", "gradient_norm", "lr", "images_per_s")


class TrainingLog:
    """Rows of figures below ``directory``; nothing at all without one.

    A training that goes on from ``step`` drops the rows after it, so that the log tells one story.
    """

    def __init__(self, directory: Path | None, step: int) -> None:
        self._path = None if directory is None else directory / "log.csv"
        self._board: Any = None
        if self._path is None or directory is None:
            return
        write_atomically(self._path, _kept(self._path, step))
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)

    def write(self, row: dict[str, float]) -> None:
        """Append one row.

        Raises:
            LabError: the disk is full or the file can't be written.
        """
        if self._path is None:
            return
        try:
            with self._path.open("a", newline="") as file:
                csv.DictWriter(file, FIELDS).writerow(
                    {name: row[name] if name == "step" else f"{row[name]:.6g}" for name in FIELDS}
                )
            if self._board is not None:
                for name in FIELDS[1:]:
                    self._board.add_scalar(name, row[name], int(row["step"]))
                self._board.flush()  # a process that is killed takes nothing with it
        except OSError as error:
            raise LabError(
                f"{self._path}: cannot be written ({error.strerror or error}). Free some space; "
                "the last checkpoint is intact and training resumes from it."
            ) from error

    def close(self) -> None:
        """Close TensorBoard's file; what it could not write, ``write`` has told."""
        if self._board is not None:
            with suppress(OSError):
                self._board.close()


def _kept(path: Path, step: int) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS)
    writer.writeheader()
    if step and path.is_file():
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if _complete(row)]
        writer.writerows(row for row in rows if int(row["step"]) <= step)
    return text.getvalue()


def _complete(row: dict[str, Any]) -> bool:
    """Tell a whole row from one that a killed process left half-written."""
    return set(row) == set(FIELDS) and all(row[name] for name in FIELDS)

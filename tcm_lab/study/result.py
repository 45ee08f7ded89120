"""A study's results, read from its database or from its published records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from pydantic import ValidationError

from tcm_lab._utils.files import write_atomically
from tcm_lab._utils.progress import OnDone
from tcm_lab._utils.yaml import read_text
from tcm_lab.data import ImageSet
from tcm_lab.errors import LabError, one_of, validation_message
from tcm_lab.evaluation import RdRecord, evaluate_anchor
from tcm_lab.metrics import METRICS
from tcm_lab.reporting import Table, render
from tcm_lab.study.folder import (
    ANCHOR,
    DATABASE,
    RECORDS,
    SPACE,
    read_kept,
    sqlite_url,
    study_name,
)
from tcm_lab.study.queue import TrialQueue, open_queue
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.space import Space, load_space
from tcm_lab.study.storage import (
    close_storage,
    open_storage,
    refuse_missing,
    shown,
    storage_errors,
)
from tcm_lab.study.summary import summarise
from tcm_lab.study.tables import trial_table

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class StudyResult:
    """The results of a study.

    Attributes:
        space: the search space.
        out: folder of the study.
        records: records of the finished trainings, in order of number.
        failed: the reason for each variant that couldn't be trained, by label.
    """

    space: Space
    out: Path
    records: tuple[TrialRecord, ...]
    failed: dict[str, str]

    @property
    def searched(self) -> tuple[TrialRecord, ...]:
        """The records from the space's estimator."""
        return tuple(r for r in self.records if r.estimator == self.space.estimator)

    @property
    def finalists(self) -> tuple[TrialRecord, ...]:
        """The training records of finalists, chosen by a search with another estimator."""
        return tuple(r for r in self.records if r.estimator != self.space.estimator)

    @property
    def image_sets(self) -> set[str]:
        """Fingerprints of the image sets that the trainings were evaluated on."""
        return {record.rd.data_fingerprint for record in self.records if record.rd is not None}

    def to_frame(self) -> DataFrame:
        """Return a pandas data frame of the trainings: axes, metrics, seed and state of each."""
        from pandas import DataFrame

        baselines = [record for record in self.records if record.is_baseline]
        rows = []
        for record in self.records:
            comparable = [base for base in baselines if base.estimator == record.estimator]
            first = comparable[0] if comparable else None
            baseline = next((base for base in comparable if base.seed == record.seed), first)
            known = {name: metric.known(record, baseline) for name, metric in METRICS.items()}
            rows.append(
                {
                    "number": record.number,
                    "variant": record.label,
                    **{name: record.params.get(name) for name in self.space.axes},
                    **{name: value for name, value in known.items() if value is not None},
                    "estimator": record.estimator.type,
                    "seed": record.seed,
                    "state": record.state,
                    "steps": record.steps,
                }
            )
        return DataFrame(rows)

    def _repr_html_(self) -> str | None:
        """Show the variants in a notebook, once the baseline is trained."""
        table = self._table()
        return None if table is None else table._repr_html_()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the variants in IPython's console, once the baseline is trained."""
        table = self._table()
        printer.text(repr(self) if table is None else render(table, "markdown"))

    def _table(self) -> Table | None:
        if not any(record.is_baseline for record in self.records):
            return None
        return trial_table(summarise(self.records, self.space), self.space, axes_apart=True)


def open_result(folder: Path, storage: str | None = None) -> StudyResult:
    """Read the results so far of the study in a folder.

    Args:
        folder: folder of the study. Without a database, it is a published study, whose space and
            records are enough to draw its tables and plots again or to compare it with another.
        storage: address of the database, if it is not the SQLite file in the folder.

    Raises:
        LabError: there is no study, or its database or files can't be read.
    """
    database = folder / DATABASE
    if storage is None and not database.is_file():
        if (folder / RECORDS).is_file() and (folder / SPACE).is_file():
            return StudyResult(
                load_space(folder / SPACE), folder, tuple(_published(folder / RECORDS)), {}
            )
        raise LabError(
            f"{folder}: holds no study (neither {DATABASE} nor {SPACE} with {RECORDS}). Give a "
            "study's folder, and its database with --storage if that is elsewhere."
        )
    url = database_of(folder, storage)
    with open_queue(url, _name_in(url, folder)) as queue:
        space = _space_of(queue, shown(url), folder)
        return StudyResult(space, folder, tuple(queue.records()), queue.failures())


def _space_of(queue: TrialQueue, url: str, folder: Path) -> Space:
    study = queue.study
    try:
        return Space.model_validate(study.user_attrs["full_space"], context={"folder": folder})
    except KeyError:
        raise LabError(
            f"{url}: its study '{study.study_name}' belongs to another program."
        ) from None
    except ValidationError as error:
        raise LabError(
            f"{url}: its space cannot be read: {validation_message(error, Space)}. Read it with "
            "the version of tcm-lab that began it."
        ) from None


def database_of(folder: Path, storage: str | None = None) -> str:
    """Return the address of a study's database.

    Args:
        folder: folder of the study.
        storage: address of the database, if it is not the SQLite file in the folder.

    Raises:
        LabError: no address is given and the folder holds no database, or the address is that of
            an SQLite file that does not exist.
    """
    if storage is not None:
        refuse_missing(storage)
    database = folder / DATABASE
    if storage is None and not database.is_file():
        raise LabError(
            f"{folder}: holds no {DATABASE}. Give the folder of a study, or its database with "
            "--storage."
        )
    return storage or sqlite_url(database)


def measure_anchor(folder: Path, images: ImageSet, on_progress: OnDone | None = None) -> None:
    """Measure JPEG's rates on a study's images once, and store them in its folder.

    If the stored record is from an earlier version, without payload sizes, JPEG is measured again.

    Raises:
        LabError: the folder holds JPEG's rates on other images, an image can't be coded, or the
            folder can't be written.
    """
    path = folder / ANCHOR
    kept = read_kept(path, RdRecord)
    if kept is not None and kept.data_fingerprint != images.fingerprint:
        raise LabError(
            f"{path}: was measured on other images than those given. Give the images of the study, "
            "or delete the file to measure again."
        )
    if kept is None or not kept.has_payloads:
        record = evaluate_anchor("jpeg", images, on_progress=on_progress)
        write_atomically(path, record.model_dump_json() + "\n")


def read_anchor(result: StudyResult) -> RdRecord | None:
    """Return JPEG's record in a study's folder, if there is one.

    Raises:
        LabError: the file is not what ``measure_anchor`` writes, was measured on other images, or
            is from an earlier version, without payload sizes.
    """
    path = result.out / ANCHOR
    if not path.exists():
        return None
    try:
        record = RdRecord.model_validate_json(path.read_bytes())
    except ValidationError:
        raise LabError(f"{path}: is not a record of JPEG. Delete it to measure again.") from None
    if result.image_sets - {record.data_fingerprint}:
        raise LabError(f"{path}: was measured on other images. Delete it to measure again.")
    if not record.has_payloads:
        raise LabError(
            f"{path}: is from an earlier version, which counted only whole files; JPEG is compared "
            "without its headers. Measure it again on the images that the study was evaluated on: "
            f"tcm-lab study report {result.out} --eval-data IMAGES."
        )
    return record


def _name_in(url: str, folder: Path) -> str:
    """Return the name, in a database, of the study in a folder that may have been moved."""
    name = study_name(folder)
    with storage_errors(url):
        storage = open_storage(url)
        names = optuna.get_all_study_names(storage)
        close_storage(storage)
    if name not in names and len(names) != 1:
        raise LabError(
            f"{shown(url)}: holds no study '{name}' (it holds {one_of(names) or 'none'}). Give the "
            "folder in which the study was begun."
        )
    return name if name in names else names[0]


def _published(path: Path) -> Iterator[TrialRecord]:
    for number, line in enumerate(read_text(path, str(path)).rstrip("\n").split("\n"), 1):
        try:
            yield TrialRecord.model_validate_json(line)
        except ValidationError as error:
            raise LabError(
                f"{path}, line {number}: not a training record: "
                f"{validation_message(error, TrialRecord)}. Restore the published file, or write "
                "it again with tcm-lab study report where the database is."
            ) from None

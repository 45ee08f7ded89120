"""What a study has found, read from the database it is kept in or from the records it published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from tcm_lab.errors import LabError, validation_message
from tcm_lab.study.queue import DATABASE, open_queue
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.space import Space, load_space
from tcm_lab.study.storage import sqlite_url, storage_errors

SPACE = "space.yaml"
RECORDS = "records.jsonl"


@dataclass(frozen=True)
class StudyResult:
    """What a study has found.

    Attributes:
        space: what was searched.
        out: its folder.
        records: finished trainings, by number.
        failed: reason by label of each variant that couldn't be trained.
    """

    space: Space
    out: Path
    records: tuple[TrialRecord, ...]
    failed: dict[str, str]


def open_result(folder: Path, storage: str | None = None) -> StudyResult:
    """Read what the study in a folder has found so far.

    Args:
        folder: of the study. Without a database it is a published one: its space and records are
            enough to draw its tables and plots again, or to compare it with another.
        storage: address of its database, if that is not the SQLite file in the folder.

    Raises:
        LabError: there is no study, or what it was kept in can't be read.
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
    with storage_errors(storage or sqlite_url(database)), open_queue(folder, storage) as queue:
        space = Space.model_validate(queue.study.user_attrs["full_space"])
        return StudyResult(space, folder, tuple(queue.records()), queue.failures())


def records_text(result: StudyResult) -> str:
    """Return a study's records as JSON lines, one per training."""
    return "".join(f"{record.model_dump_json()}\n" for record in result.records)


def _published(path: Path) -> Iterator[TrialRecord]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            yield TrialRecord.model_validate_json(line)
        except ValidationError as error:
            raise LabError(
                f"{path}, line {number}: not a training record: "
                f"{validation_message(error, TrialRecord)}. Restore the published file, or write "
                "it again with tcm-lab study report where the database is."
            ) from None

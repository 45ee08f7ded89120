"""Finished trainings by identity: in the study's own folder, and in one that studies share."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from tcm_lab._utils.files import write_atomically
from tcm_lab.study.plan import Plan
from tcm_lab.study.record import TrialRecord

_FILE = "record.json"


def find_record(identity: str, plan: Plan) -> TrialRecord | None:
    """Return the record of a finished training, if anybody has made it."""
    for path in _places(identity, plan):
        try:
            record = TrialRecord.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError, UnicodeDecodeError):
            continue  # not there, or of another version: trained anew
        if record.identity == identity:
            return record
    return None


def keep_record(record: TrialRecord, plan: Plan) -> None:
    """Write down a training; one that was stopped is another study's to judge, and stays here.

    Raises:
        LabError: a folder can't be written.
    """
    text = record.model_dump_json(indent=1) + "\n"
    own, *shared = _places(record.identity, plan)
    write_atomically(own, text)
    if record.state == "complete":
        for path in shared:
            write_atomically(path, text)


def _places(identity: str, plan: Plan) -> list[Path]:
    own = plan.out / "trials" / identity / _FILE
    return [own] if plan.cache is None else [own, plan.cache / f"{identity}.json"]

"""Names of the files in a study's folder, and of the study itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from tcm_lab._utils import Frozen
from tcm_lab._utils.files import as_text
from tcm_lab.errors import LabError

DATABASE = "study.db"
NAME = "study.json"
SPACE = "space.yaml"
BASE = "base.yaml"
RECORDS = "records.jsonl"
ANCHOR = "jpeg.json"
TRIALS = "trials"

_LONGEST = 200  # characters of a file name; systems allow 255
Record = TypeVar("Record", bound=Frozen)


def file_names(names: Iterable[str]) -> list[str]:
    """Return a valid and unique file name for each of the given names.

    Anything but ASCII letters, digits and dots becomes a hyphen. A name that is then empty, begins
    with a dot or equals another one gets its position as a number.
    """
    result: dict[str, None] = {}
    for place, name in enumerate(names, 1):
        own = re.sub(r"[^A-Za-z0-9.]+", "-", name)[:_LONGEST].strip("-")
        if not own or own.startswith("."):
            own = f"{place}{own}"
        while own in result:
            own = f"{own}-{place}"
        result[own] = None
    return list(result)


def read_kept(path: Path, kind: type[Record]) -> Record | None:
    """Return the record in a file, or None if it is missing or of another version."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def sqlite_url(file: Path) -> str:
    """Return the address of an SQLite file."""
    # Characters with a meaning in an address are percent-encoded.
    return "sqlite:///" + re.sub(r"[%?#]", lambda c: f"%{ord(c[0]):02X}", str(file.absolute()))


def study_name(folder: Path) -> str:
    """Return the name of the study begun in a folder; for a new one, the folder's own."""
    try:
        name = json.loads((folder / NAME).read_text(encoding="utf-8"))["name"]
    except OSError:
        return as_text(folder.absolute().name)
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f"{folder / NAME}: does not hold a study's name ({error}).") from None
    return str(name)

"""What is in a study's folder, by name."""

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

_LONGEST = 200  # letters of a file's name, of the 255 that systems take
Record = TypeVar("Record", bound=Frozen)


def file_names(names: Iterable[str]) -> list[str]:
    """Return what files may be called by names of anything, no two alike.

    What is neither an ASCII letter nor a digit becomes a hyphen. A name that has none, or is then
    that of another, gets its place as a number.
    """
    found: dict[str, None] = {}
    for place, name in enumerate(names, 1):
        own = re.sub(r"[^A-Za-z0-9.]+", "-", name)[:_LONGEST].strip("-")
        if not own or own.startswith("."):
            own = f"{place}{own}"
        while own in found:
            own = f"{own}-{place}"
        found[own] = None
    return list(found)


def read_kept(path: Path, kind: type[Record]) -> Record | None:
    """Return a file's record, or None if it is missing or of another version."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def sqlite_url(file: Path) -> str:
    """Return the address of an SQLite file."""
    # What would mean something in an address is spelled by its number.
    return "sqlite:///" + re.sub(r"[%?#]", lambda c: f"%{ord(c[0]):02X}", str(file.absolute()))


def study_name(folder: Path) -> str:
    """Return the name of the study in a folder, as it was begun; of a new one, the folder's own."""
    try:
        name = json.loads((folder / NAME).read_text(encoding="utf-8"))["name"]
    except OSError:
        return as_text(folder.absolute().name)
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f"{folder / NAME}: is not the name of a study ({error}).") from None
    return str(name)

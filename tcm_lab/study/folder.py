"""What is in a study's folder, by name."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tcm_lab.errors import LabError

DATABASE = "study.db"
NAME = "study.json"
SPACE = "space.yaml"
RECORDS = "records.jsonl"
ANCHOR = "jpeg.json"
TRIALS = "trials"


def sqlite_url(file: Path) -> str:
    """Return the address of an SQLite file."""
    # What would mean something in an address is spelled by its number.
    return "sqlite:///" + re.sub(r"[%?#]", lambda c: f"%{ord(c[0]):02X}", str(file.absolute()))


def study_name(folder: Path) -> str:
    """Return the name of the study in a folder, as it was begun; of a new one, the folder's own."""
    try:
        name = json.loads((folder / NAME).read_text(encoding="utf-8"))["name"]
    except OSError:
        return folder.absolute().name
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f"{folder / NAME}: is not the name of a study ({error}).") from None
    return str(name)

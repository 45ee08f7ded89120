"""Records in JSON files: written with the figures that people ask for, read back whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import ValidationError

from tcm_lab.errors import LabError
from tcm_lab.reporting.cost_tables import totals

if TYPE_CHECKING:
    from tcm_lab.complexity import ComplexityRecord, Convention, TimingRecord
    from tcm_lab.evaluation import RdRecord

    AnyRecord: TypeAlias = ComplexityRecord | TimingRecord | RdRecord

_TELLING = {"parts": "complexity", "encode": "timing", "points": "rd"}
"""A field that only one kind of record has, and that kind."""


def records_json(records: Sequence[AnyRecord], *, convention: Convention = "all") -> str:
    """Return a JSON list with one object per record.

    Each object begins with what is mostly asked for, by names with units, and holds the whole
    record under ``record``; ``read_records`` takes it back.

    Args:
        records: of any kinds.
        convention: of the totals of complexity records; the other conventions stand beside them.
    """
    entries = [_entry(record, convention) for record in records]
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"


def read_records(path: Path) -> list[AnyRecord]:
    """Read the records in a file: one, a list of them, or what ``records_json`` wrote.

    Raises:
        LabError: the file can't be read, or holds something else.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LabError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LabError(f"{path}: not JSON ({error}).") from None
    entries = tree if isinstance(tree, list) else [tree]
    if not entries:
        raise LabError(f"{path}: holds no record.")
    return [_record(entry, f"{path}, record {i}") for i, entry in enumerate(entries)]


def _record(entry: Any, place: str) -> AnyRecord:
    from tcm_lab.complexity import ComplexityRecord, TimingRecord
    from tcm_lab.evaluation import RdRecord

    fields = entry.get("record", entry) if isinstance(entry, Mapping) else {}
    kind = next((kind for field, kind in _TELLING.items() if field in fields), None)
    if kind is None:
        raise LabError(
            f"{place}: neither a complexity, nor a timing, nor a rate-distortion record. "
            "Give files that were written with --format json."
        )
    models: dict[str, type[AnyRecord]] = {
        "complexity": ComplexityRecord,
        "timing": TimingRecord,
        "rd": RdRecord,
    }
    try:
        return models[kind].model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise LabError(
            f"{place}: {field}: {first['msg']}. It may be of another version; measure it again."
        ) from None


def _entry(record: AnyRecord, convention: Convention) -> dict[str, Any]:
    from tcm_lab.complexity import ComplexityRecord, TimingRecord

    if isinstance(record, ComplexityRecord):
        summary = _complexity(record, convention)
    elif isinstance(record, TimingRecord):
        summary = {
            "model": record.model,
            "size": "x".join(map(str, record.size)),
            "encode_ms": record.encode_ms,
            "decode_ms": record.decode_ms,
        }
    else:
        figures = ("bpp", "psnr_db")
        summary = {"model": record.name, **{name: list(getattr(record, name)) for name in figures}}
    return {**_rounded(summary), "record": record.model_dump(mode="json")}


def _complexity(record: ComplexityRecord, convention: Convention) -> dict[str, Any]:
    from tcm_lab.complexity import CONVENTIONS, SCOPES

    def per_pixel(macs: Mapping[Any, int]) -> dict[str, float]:
        return {name: count / record.pixels / 1e3 for name, count in macs.items()}

    return {
        "model": record.model,
        "size": "x".join(map(str, record.size)),
        "convention": convention,
        **{name: value for name, value in totals(record, convention).items() if value is not None},
        "parts_kmacs_per_px": per_pixel(record.macs_by_part(convention)),
        "kinds_kmacs_per_px": per_pixel(record.macs_by_kind),
        "conventions": {
            name: {
                "kmacs_per_px": {scope: record.total_kmacs_per_px(scope, name) for scope in SCOPES},
                "gmacs": {scope: record.total_gmacs(scope, name) for scope in SCOPES},
            }
            for name in CONVENTIONS
        },
    }


def _rounded(tree: Any) -> Any:
    """Keep nine significant digits: more than a figure means, and the same on every machine."""
    if isinstance(tree, Mapping):
        return {name: _rounded(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_rounded(value) for value in tree]
    return float(f"{tree:.9g}") if isinstance(tree, float) else tree

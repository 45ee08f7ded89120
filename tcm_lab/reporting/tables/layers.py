"""The table of layers that a configuration can name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tcm_lab.blocks import LayerRegistry
from tcm_lab.reporting.table import Column, Row, Table

_COLUMNS = ("kind", "name", "options", "does")


def layer_table(registries: Iterable[LayerRegistry[Any]]) -> Table:
    """Return every registered layer with its options and their defaults."""
    rows = []
    for registry in registries:
        for name in sorted(registry):
            fields = registry[name].model_fields.items()
            options = [_option(option, field) for option, field in fields if option != "type"]
            does = (registry[name].__doc__ or "").strip().partition("\n")[0]
            cells = (registry.kind, name, ", ".join(options), does)
            rows.append(Row(values=dict(zip(_COLUMNS, cells, strict=True))))
    columns = tuple(Column(key=key, header=key) for key in _COLUMNS)
    return Table(title="What a configuration can name", columns=columns, rows=tuple(rows))


def _option(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return name
    return f"{name}={plain(field.get_default(call_default_factory=True))}"


def plain(value: Any) -> str:
    """Return a value as one line of YAML; a configuration as its type."""
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        kind = getattr(value, "type", None)
        return str(kind) if kind is not None else "its own defaults"
    if value in ("", (), {}):
        return "empty"
    return value if isinstance(value, str) else json.dumps(value)

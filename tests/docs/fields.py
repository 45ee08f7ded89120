"""Tables of configuration fields, read from JSON schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from tcm_lab.reporting import Column, Row, Table
from tcm_lab.reporting.tables.layers import plain

Schema = Mapping[str, Any]

_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_WORDS = {
    "integer": "integer",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "none",
}


def field_table(model: type[BaseModel], title: str) -> Table:
    """Return a table with a row per field of ``model``: type and range, default, and meaning.

    Fields with a single possible value, such as the ``type`` of a layer, are omitted.
    """
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    rows = []
    for name, said in schema.get("properties", {}).items():
        if "const" in said:
            continue
        field = fields[name]
        default = field.get_default(call_default_factory=True)
        values = {
            "field": name,
            "type": spell(said, definitions),
            "default": "required" if field.is_required() else plain(default),
            "meaning": " ".join(str(said.get("description", "")).split()),
        }
        rows.append(Row(values=values))
    headers = {"field": "field", "type": "type and range", "default": "default"}
    columns = [Column(key=key, header=header) for key, header in headers.items()]
    columns.append(Column(key="meaning", header="meaning"))
    return Table(title=title, columns=tuple(columns), rows=tuple(rows))


def spell(said: Schema, definitions: Schema) -> str:
    """Return a JSON Schema as text: its types with their bounds, joined by ``or``."""
    if "$ref" in said:
        name = str(said["$ref"]).rsplit("/", 1)[-1]
        target = definitions.get(name, {})
        return name if target.get("type", "object") == "object" else spell(target, definitions)
    if choices := said.get("anyOf") or said.get("oneOf"):
        return " or ".join(dict.fromkeys(spell(one, definitions) for one in choices))
    if "enum" in said:
        return " | ".join(map(str, said["enum"]))
    kind = said.get("type")
    if kind == "array":
        return _spell_list(said, definitions)
    if kind == "object":
        values = said.get("additionalProperties")
        keys = said.get("propertyNames")
        named = spell(keys, definitions) if isinstance(keys, Mapping) else "names"
        held = spell(values, definitions) if isinstance(values, Mapping) else "anything"
        return f"mapping of {named} to {held}"
    words = _WORDS.get(str(kind), "anything")
    bounds = ", ".join(f"{sign} {said[key]:g}" for key, sign in _BOUNDS.items() if key in said)
    if "pattern" in said:
        bounds = f"matching {said['pattern']}"
    return f"{words} {bounds}".rstrip()


def _spell_list(said: Schema, definitions: Schema) -> str:
    if "prefixItems" in said:
        return "[" + ", ".join(spell(one, definitions) for one in said["prefixItems"]) + "]"
    items = spell(said["items"], definitions) if "items" in said else "anything"
    fewest = f", at least {said['minItems']}" if said.get("minItems") else ""
    return f"list of ({items}){fewest}" if " or " in items else f"list of {items}{fewest}"

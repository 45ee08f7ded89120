"""The JSON Schema of space files, which editors read."""

from __future__ import annotations

import json

from tcm_lab.study.space import Space

SCHEMA_FILE = "space.schema.json"


def space_schema() -> str:
    """Return the JSON Schema of space files, with which editors complete and check them."""
    schema = Space.model_json_schema()
    axis = schema["properties"]["axes"]["additionalProperties"]
    schema["properties"]["axes"]["additionalProperties"] = {
        "anyOf": [{"type": "array", "minItems": 1, "description": "choices"}, axis]
    }
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"

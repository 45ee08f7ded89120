"""Implicit resets of a variant: fields of a layer that the mapping in its place leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tcm_lab.codec import VariantConfig
from tcm_lab.codec.overrides import read_field
from tcm_lab.errors import ConfigError
from tcm_lab.study.space import Space
from tcm_lab.study.variants import Variant


def reset_fields(space: Space, variant: Variant) -> list[str]:
    """Return the fields of the baseline's layers that a variant's mappings change without naming.

    A mapping replaces a whole field, so whatever it leaves out falls back to its default. If it
    sets a layer of another type, nothing of the old layer is kept anyway.

    Returns:
        One text for each field: its path, and its values before and after.
    """
    changes: dict[str, Any] = {}
    for name, key in variant.params.items():
        changes |= space.axes[name].changes(name, key)
    return [
        text
        for path, given in changes.items()
        if isinstance(given, Mapping)
        for text in _reset(path, given, _layer(space.baseline, path), _layer(variant.config, path))
    ]


def _layer(config: VariantConfig, path: str) -> Mapping[str, Any]:
    """Return the layer at ``path``; empty unless exactly one is there."""
    try:
        value = read_field(config.model_dump(mode="json"), path)
    except ConfigError:  # no stage has a block left, or another change adds the field
        return {}
    return value if isinstance(value, Mapping) else {}


def _reset(
    path: str, given: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]
) -> list[str]:
    if before.get("type") != after.get("type"):
        return []
    return [
        f"{path}.{field} from {value!r} to {after[field]!r}"
        for field, value in before.items()
        if field not in given and after[field] != value
    ]

"""Transforms by the name of the preset that they are taken from: ``g_a: dcae-nano``."""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from typing import Any

from tcm_lab._utils.yaml import read_yaml
from tcm_lab.codec.names import PRESETS, preset_names
from tcm_lab.errors import ConfigError, near, one_of

TRANSFORMS = ("g_a", "g_s", "h_a", "h_s")


def borrowed(transform: str, value: Any) -> Any:
    """Return a transform as plain values: ``value`` itself, or what the preset of that name has.

    Raises:
        ConfigError: no preset has that name, or it has only changes to another one.
    """
    if not isinstance(value, str):
        return value
    if value not in preset_names():
        raise ConfigError(
            f"'{value}' is no preset, whose {transform} it could be."
            f"{near(value, preset_names())} Or write the stages."
        )
    tree = _preset(value)
    if transform not in tree:
        raise ConfigError(
            f"the preset '{value}' only changes {tree['base']}, and has no {transform} of its own; "
            f"those that have one: {one_of(_whole_presets())}"
        )
    return deepcopy(tree[transform])  # the caller changes it, and the tree is kept


@lru_cache(maxsize=64)
def _preset(name: str) -> dict[str, Any]:
    return read_yaml(PRESETS / f"{name}.yaml", f"preset {name}")


def _whole_presets() -> list[str]:
    return [name for name in preset_names() if "base" not in _preset(name)]

"""Dotted paths into a configuration tree: finding the fields that a path means, and setting them.

A path's parts may be patterns (``g_*.window_size``). Inside a transform, a field that the transform
does not have is looked for in its stages, and in a stage in its block: ``g_a.split`` means the
split of every block of g_a. Several stages may get a list, one value each.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from tcm_lab.blocks import ATTENTIONS, BLOCKS, RESAMPLERS, LayerRegistry
from tcm_lab.errors import ConfigError, near, one_of

Tree = dict[str, Any]


@dataclass(frozen=True)
class Field:
    """A place in the tree.

    Attributes:
        holder: the mapping or list that holds it.
        key: its key or index there.
        stages: the stages over which the path was spread to reach it, by identity; or None.
    """

    holder: Any
    key: Any
    stages: int | None


def apply_overrides(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> Tree:
    """Return a copy of ``tree`` with each dotted path of ``changes`` set, in order.

    Raises:
        ConfigError: a path leads nowhere, or a list's length is not that of the stages.
    """
    changed: Tree = copy.deepcopy(dict(tree))
    for path, value in changes.items():
        fields = find_fields(changed, path)
        for field, part in zip(fields, _parts(path, value, fields), strict=True):
            try:
                field.holder[field.key] = _whole(field.key, part)
            except ConfigError as error:
                raise ConfigError(f"{path}: {error}") from None
    return changed


def read_field(tree: Mapping[str, Any], path: str) -> Any:
    """Return what ``path`` holds: one value if all its fields agree, else the list of them."""
    values = [field.holder[field.key] for field in find_fields(dict(tree), path)]
    return values[0] if all(value == values[0] for value in values) else values


def find_fields(tree: Tree, path: str) -> list[Field]:
    """Return the fields that ``path`` means.

    Raises:
        ConfigError: the path leads nowhere; the message lists the known fields at that place.
    """
    parts = path.split(".")
    fields = list(_descend(tree, parts, None))
    if not fields:
        raise ConfigError(_lost(tree, path, parts))
    return fields


def _descend(node: Any, parts: list[str], stages: int | None) -> Iterator[Field]:
    part, rest = parts[0], parts[1:]
    keys: list[Any] = []
    if isinstance(node, dict):
        keys = [key for key in node if fnmatchcase(key, part)]
    elif isinstance(node, list):
        keys = [i for i in range(len(node)) if fnmatchcase(str(i), part)]
        stages = stages if part.isdigit() else id(node)
    for key in keys:
        if rest:
            yield from _descend(node[key], rest, stages)
        # A place that is empty by design (the last stage's width, a block of no depth) is not
        # reached by a path over all stages.
        elif stages is None or not _empty(node, key):
            yield Field(node, key, stages)
    if isinstance(node, dict) and part not in node:
        if isinstance(node.get("stages"), list):
            for stage in node["stages"]:
                yield from _descend(stage, parts, id(node["stages"]))
        else:
            yield from _descend(node.get("block"), parts, stages)


def _empty(holder: Any, key: Any) -> bool:
    """Say whether a stage has nothing at ``key`` that a path over all stages could mean."""
    if key in ("block", "depth"):
        return holder.get("block") is None
    return key == "width" and holder["width"] is None


def _parts(path: str, value: Any, fields: list[Field]) -> list[Any]:
    """Return the value for each field: a list gives one to each stage of each transform."""
    if not isinstance(value, list | tuple) or all(field.stages is None for field in fields):
        return [value] * len(fields)
    spread = Counter(field.stages for field in fields)
    for count in spread.values():
        if count != len(value):
            raise ConfigError(
                f"{path} = {list(value)}: {len(value)} values for {count} stages; "
                "give one value, or one for each stage that has this field"
            )
    return list(value) * len(spread)


def _whole(key: str, value: Any) -> Any:
    """Fill a layer's missing options by their defaults, so that a later path can reach them."""
    registries: dict[str, LayerRegistry[Any]] = {
        "block": BLOCKS,
        "attention": ATTENTIONS,
        "resample": RESAMPLERS,
    }
    if key in registries and value is not None:
        return registries[key].parse(value).model_dump(mode="json")
    return value


def _lost(tree: Tree, path: str, parts: list[str]) -> str:
    """Say where a path leads nowhere and what there is instead."""
    for depth in range(len(parts), 0, -1):
        place, part = parts[: depth - 1], parts[depth - 1]
        reached = [f.holder[f.key] for f in _descend(tree, place, None)] if place else [tree]
        known = sorted({name for node in reached for name in _names(node)})
        if known:
            where = f" in '{'.'.join(place)}'" if place else ""
            return (
                f"no field '{part}'{where} (of '{path}')."
                f"{near(part, known)} Known: {one_of(known)}."
            )
    return f"no field '{path}'. Known: {one_of(sorted(tree))}."


def _names(node: Any) -> Iterator[str]:
    """Yield the field names that can follow a path which led to ``node``."""
    if isinstance(node, list):
        yield from map(str, range(len(node)))
    if not isinstance(node, dict):
        return
    yield from node
    for stage in node.get("stages", []):
        yield from _names(stage)
    if isinstance(node.get("block"), dict):
        yield from (name for name in node["block"] if name != "type")

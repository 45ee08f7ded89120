"""Dotted paths into a configuration tree: find the fields that a path refers to, and set them.

A path's parts may be patterns (``g_*.window_size``). A field that a transform lacks is looked up in
its stages, and one that a stage lacks in its block: ``g_a.split`` is the split of every block of
g_a. A list gives each of several stages a value of its own. A transform may be given as the name of
a preset that has it: ``g_a: dcae-nano``.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import takewhile
from typing import Any

from pydantic import ValidationError

from tcm_lab.blocks import ATTENTIONS, BLOCKS, RESAMPLERS, LayerRegistry
from tcm_lab.codec.entropy_models import ENTROPY_MODELS
from tcm_lab.codec.names import preset_names, preset_tree
from tcm_lab.errors import ConfigError, near, one_of

Tree = dict[str, Any]

TRANSFORMS = ("g_a", "g_s", "h_a", "h_s")

#: The fields of a stage that are layers.
_LAYERS: Mapping[str, LayerRegistry[Any]] = {
    "block": BLOCKS,
    "attention": ATTENTIONS,
    "resample": RESAMPLERS,
}
#: Fields that are empty in some stages.
_OF_STAGES = ("block", "depth", "width")
#: How many parts of a path are matched so far, and how many of the next steps are implied.
_State = tuple[int, int]
#: Steps that a path may omit, each with the number of steps below it that go with it: the stage's
#: index.
_IMPLIED = {"stages": 1, "block": 0}


@dataclass(frozen=True)
class Field:
    """A field of the tree.

    Attributes:
        path: steps from the top to the field.
        holder: the mapping or list that holds it.
        key: its key or index in the holder.
    """

    path: tuple[str, ...]
    holder: Any
    key: Any

    @property
    def is_empty(self) -> bool:
        """Whether a stage has no value here by design: the last width, blocks without depth."""
        if self.key not in _OF_STAGES or not {"resample", *_OF_STAGES} <= {*self.holder}:
            return False  # an option of a layer
        return self.holder["width" if self.key == "width" else "block"] is None


def apply_overrides(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> Tree:
    """Return a copy of ``tree`` with each dotted path of ``changes`` set, in order.

    Raises:
        ConfigError: a path matches no field, or a list's length is not the number of stages.
    """
    changed: Tree = copy.deepcopy(dict(tree))
    for path, value in changes.items():
        fields = find_fields(changed, path)
        for field, part in zip(fields, _parts(path, value, fields), strict=True):
            try:
                # A copy, so that later paths change neither the caller's value nor another field's.
                field.holder[field.key] = copy.deepcopy(_whole(field, part))
            except ConfigError as error:
                raise ConfigError(f"{path}: {error}") from None
    return changed


def read_field(tree: Mapping[str, Any], path: str) -> Any:
    """Return the value at ``path``: one if all its fields agree, else a list of all."""
    values = [field.holder[field.key] for field in find_fields(dict(tree), path)]
    return values[0] if all(value == values[0] for value in values) else values


def find_fields(tree: Tree, path: str) -> list[Field]:
    """Return the fields that ``path`` refers to.

    Raises:
        ConfigError: the path matches no field; the message lists the known fields at that place.
    """
    parts = path.split(".")
    fields = [*_reached(tree, parts, [(0, 0)])]
    if _is_over_stages(path):
        fields = [field for field in fields if not field.is_empty]
    if not fields:
        raise ConfigError(_lost(tree, path, parts))
    return fields


def _is_over_stages(path: str) -> bool:
    """Return whether a path names no stage, so that it reaches all that have the field."""
    return not any(part.isdigit() for part in path.split("."))


def _reached(
    node: Any, parts: Sequence[str], states: Iterable[_State], above: tuple[str, ...] = ()
) -> Iterator[Field]:
    """Yield the fields below a node that match the rest of a path; it may omit stage and block."""
    if not isinstance(node, dict | list):
        return
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        step = str(key)
        after = {state for before in states for state in _after(before, step, parts, node)}
        if after:
            if (len(parts), 0) in after:
                yield Field((*above, step), node, key)
            yield from _reached(value, parts, after, (*above, step))


def _after(state: _State, step: str, parts: Sequence[str], node: Any) -> Iterator[_State]:
    """Yield the states of a path one step below a node; the node's own field hides those below."""
    done, implied = state
    if implied:
        yield done, implied - 1
    elif done < len(parts):
        if fnmatchcase(step, parts[done]):
            yield done + 1, 0
        if step in _IMPLIED and parts[done] not in node:
            yield done, _IMPLIED[step]


def _parts(path: str, value: Any, fields: list[Field]) -> list[Any]:
    """Return the value for each field: a list gives one to each stage of each transform."""
    in_lists = any(step.isdigit() for field in fields for step in field.path)
    if not (isinstance(value, list | tuple) and in_lists and _is_over_stages(path)):
        return [value] * len(fields)
    spread = Counter(tuple(takewhile(str.isidentifier, field.path)) for field in fields)
    for count in spread.values():
        if count != len(value):
            raise ConfigError(
                f"{path} = {list(value)}: {len(value)} values for {count} stages; "
                "give one value, or one for each stage that has this field"
            )
    return list(value) * len(spread)


def _whole(field: Field, value: Any) -> Any:
    """Fill in the defaults of what a value leaves out, so that a later path can reach them."""
    key, before = field.key, field.holder[field.key]
    if field.path[0] in TRANSFORMS and len(field.path) <= 3:
        return _whole_transform(field.path, value)
    if key == "entropy_model":
        with suppress(ValidationError):  # the whole tree's validation will report it by path
            return ENTROPY_MODELS.validate(value).model_dump(mode="json")
    is_layer = before is None or isinstance(before, dict)  # rather than an option of that name
    if key in _LAYERS and is_layer and value is not None:
        return _LAYERS[key].parse(value).model_dump(mode="json")
    return value


def _whole_transform(path: Sequence[str], value: Any) -> Any:
    """Fill in the defaults of a transform, of its list of stages, or of one of them."""
    if len(path) == 1:
        value = borrowed(path[0], value)
        if not isinstance(value, Mapping) or "stages" not in value:
            return value
        return {**value, "stages": _whole_transform((*path, "stages"), value["stages"])}
    if len(path) == 2:
        is_list = isinstance(value, list | tuple)
        return [_whole_transform((*path, ""), stage) for stage in value] if is_list else value
    if not isinstance(value, Mapping):
        return value
    stage = {"width": None, "depth": 0, "block": None, "attention": "none", **value}
    for key, registry in _LAYERS.items():
        with suppress(ConfigError):  # as above
            if stage.get(key) is not None:
                stage[key] = registry.parse(stage[key]).model_dump(mode="json")
    return stage


def _lost(tree: Tree, path: str, parts: list[str]) -> str:
    """Describe where a path fails, and the fields that exist there."""
    place = parts
    known: list[str] = []
    while not known:
        *place, part = place
        below = _reached(tree, [*place, "*"], [(0, 0)])
        known = sorted({str(field.key) for field in below} - {"type"})
    where = f" in '{'.'.join(place)}'" if place else ""
    elsewhere = _places(tree, part)
    hint = f" Did you mean {one_of(elsewhere)}?" if elsewhere else near(part, known)
    return f"no field '{part}'{where} (of '{path}').{hint} Known: {one_of(known)}."


def _places(node: Any, name: str, above: str = "") -> list[str]:
    """Return the shortest paths to fields called ``name``, with a transform's directions as one."""
    if not isinstance(node, dict | list):
        return []
    paths = dict[str, None]()  # in the tree's order
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        step = f"{key[0]}_*" if key in TRANSFORMS else str(key)
        path = f"{above}.{step}".lstrip(".")
        if key == name:
            paths[path] = None
        is_implied = step in _IMPLIED or isinstance(node, list)
        paths |= dict.fromkeys(_places(value, name, above if is_implied else path))
    return list(paths)


def borrowed(transform: str, value: Any) -> Any:
    """Return a transform as plain values: ``value`` itself, or that of the preset it names.

    Raises:
        ConfigError: no preset has that name, or it has only changes to another one.
    """
    if not isinstance(value, str):
        return value
    if value not in preset_names():
        raise ConfigError(
            f"there is no preset '{value}' to take {transform} from."
            f"{near(value, preset_names())} Or write the stages."
        )
    tree = preset_tree(value)
    if transform not in tree:
        whole = [name for name in preset_names() if "base" not in preset_tree(name)]
        raise ConfigError(
            f"the preset '{value}' only changes {tree['base']}, and has no {transform} of its own; "
            f"those that have one: {one_of(whole)}"
        )
    return tree[transform]

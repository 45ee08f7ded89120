"""Errors that a user can fix: one message that names the field or file, the value, and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

K = TypeVar("K", bound=str)
V = TypeVar("V")


class LabError(Exception):
    """A mistake that the user can fix.

    The command line prints only its message and ends with exit code 2; anything that is not a
    ``LabError`` is a defect of this package and keeps its traceback.
    """


class ConfigError(LabError, ValueError):
    """A configuration that cannot be built: the message names the field, its value and the fix."""


class FileError(LabError):
    """A file that cannot be read or written, or a full disk: other input would not help."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def near(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean …?`` for the known names closest to ``name``, or nothing."""
    close = difflib.get_close_matches(brief(name), list(known), n=3, cutoff=0.5)
    return f" Did you mean {one_of(close)}?" if close else ""


def one_of(values: Iterable[object]) -> str:
    """Return the values as ``a, b or c``."""
    words = [str(value) for value in values]
    return " or ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def lookup(known: Mapping[K, V], name: K, kind: str) -> V:
    """Return the entry called ``name``.

    Raises:
        ConfigError: the name is unknown; the message lists the known names, and the nearest.
    """
    if name not in known:
        names = one_of(sorted(known))
        shown = brief(str(name))
        raise ConfigError(f"no {kind} is called '{shown}'.{near(name, known)} Known: {names}.")
    return known[name]


_WORKS = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "string": "a string",
    "string_pattern_mismatch": "a string that matches {pattern}",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "dataclass": "a mapping",
    "invalid_key": "under a key that is a string",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "too_short": "at least {min_length} long",
    "too_long": "at most {max_length} long",
}
"""What a value must be if pydantic's own words are not plain, by the type of error or that type's
first word."""


def validation_message(error: ValidationError, model: type[BaseModel], tree: object = None) -> str:
    """Return the first validation error as one line: the path, the value and what would work.

    Given the ``tree`` that was validated, the message shows the value as the user wrote it.
    """
    errors = [(*_walk(model, each["loc"]), each) for each in error.errors()]
    begin = errors[0][0]
    # The branches of a union fail together; the one that got furthest is meant.
    branches = [each for each in errors if each[0][: len(begin)] == begin]
    steps, models, first = max(branches, key=lambda branch: len(branch[0]))
    path, kind = ".".join(map(str, steps)), first["type"]
    if kind == "extra_forbidden":
        known = list(models[0].model_fields) if len(models) == 1 else []
        return f"unknown field '{path}'.{near(str(steps[-1]), known)} Known: {one_of(known)}."
    if kind == "missing":
        return f"'{path}' is missing"
    if kind == "union_tag_not_found":
        return f"'{path}.{first['ctx']['discriminator'][1:-1]}' is missing"
    if kind == "value_error":  # a validator of ours names its own value
        message = first["msg"].removeprefix("Value error, ")
        return f"{path}: {message}" if path else message
    shown = brief(repr(_value(tree, steps) if tree is not None else first["input"]))
    works = dict.fromkeys(_works(each) for place, _, each in branches if place == steps)
    return f"{path}{' = ' if path else ''}{shown}: must be {one_of(works)}"


def at(place: str, check: Callable[..., None], *arguments: Any) -> None:
    """Run ``check``, and prefix the message of its `ConfigError` with the place."""
    try:
        check(*arguments)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None


def brief(text: str) -> str:
    """Shorten a long text for a message."""
    return text if len(text) <= 100 else f"{text[:99]}…"


def _works(error: ErrorDetails) -> str:
    kind, message = error["type"], error["msg"]
    template = _WORKS.get(kind) or _WORKS.get(kind.split("_")[0])
    if template is None:
        return message.partition("should be ")[2] or message
    bounds = error.get("ctx", {}).items()
    return template.format(**{k: f"{v:g}" if isinstance(v, float) else v for k, v in bounds})


def _value(tree: Any, steps: Sequence[int | str]) -> Any:
    """Return the value at a path of a tree, or the last one on the way if the path ends early."""
    for step in steps:
        try:
            tree = tree[step]
        except (KeyError, IndexError, TypeError):
            break
    return tree


_NOT_FIELDS = (
    "function-", "constrained", "literal", "tuple", "list[", "dict[", "nullable", "tagged-union",
    "[key]",
)  # fmt: skip


def _walk(
    model: type[BaseModel], loc: Sequence[int | str]
) -> tuple[list[int | str], list[type[BaseModel]]]:
    """Return a location without pydantic's own steps, and the models of its last field."""
    steps: list[int | str] = []
    models = [model]
    for step in loc:
        tagged = [each for each in models if len(models) > 1 and step in _tags(each)]
        is_branch = step == "str" and len(steps) > 1 and step is loc[-1]  # of a union
        if tagged or is_branch or str(step).startswith(_NOT_FIELDS):
            models = tagged or models
            continue
        steps.append(step)
        fields = [each.model_fields[step] for each in models if step in each.model_fields]
        if fields:  # else an index, or a key of a mapping
            models = [below for field in fields for below in _models_in(field.annotation)]
    return steps, models


def _tags(model: type[BaseModel]) -> tuple[object, ...]:
    """Return the values of a model's literal fields, by which a union tells it from others."""
    return tuple(tag for field in model.model_fields.values() for tag in get_args(field.annotation))


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)

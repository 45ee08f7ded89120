"""Errors that a user can fix: one message that names the field or file, the value, and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


class LabError(Exception):
    """A mistake that the user can fix.

    The command line prints its message alone and ends with exit code 2; anything that is not a
    ``LabError`` is a defect of this package and keeps its traceback.
    """


class ConfigError(LabError, ValueError):
    """A configuration that cannot be built: the message names the field, its value and the fix."""


def near(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean …?`` for the known names closest to ``name``, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Did you mean {one_of(close)}?" if close else ""


def one_of(values: Iterable[object]) -> str:
    """Spell ``a, b or c``."""
    words = [str(value) for value in values]
    return " or ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def validation_message(error: ValidationError, model: type[BaseModel], tree: object = None) -> str:
    """Say the first validation error in one line: the field's path, its value and what would work.

    Args:
        error: what pydantic found.
        model: what was validated; unknown fields are answered with its nearest ones.
        tree: what it was given, so that the message shows the value as the user wrote it.
    """
    first = error.errors()[0]
    steps, models = _walk(model, first["loc"])
    path, message = ".".join(map(str, steps)), first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = list(models[0].model_fields) if len(models) == 1 else []
        return f"unknown field '{path}'.{near(str(steps[-1]), known)} Known: {one_of(known)}."
    if first["type"] == "missing":
        return f"'{path}' is missing"
    if not path or first["type"] == "value_error":  # a validator of ours names its own value
        return f"{path}: {message}" if path else message
    value: Any = tree if tree is not None else first["input"]
    if tree is not None:
        for step in steps:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                break
    return f"{path} = {value!r}: {message}"


_NOT_FIELDS = ("function-", "constrained", "literal", "tuple", "nullable", "tagged-union", "[key]")


def _walk(
    model: type[BaseModel], loc: Sequence[int | str]
) -> tuple[list[int | str], list[type[BaseModel]]]:
    """Return a location without pydantic's own steps, and the models that its last field is of."""
    steps: list[int | str] = []
    models = [model]
    for step in loc:
        tagged = [each for each in models if len(models) > 1 and step in _tags(each)]
        if tagged or str(step).startswith(_NOT_FIELDS):
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

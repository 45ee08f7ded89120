"""One axis of a search space: which fields it sets, which values it takes, and when it acts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import Field, JsonValue, model_validator

from tcm_lab._utils import Frozen
from tcm_lab.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Key: TypeAlias = str | int | float | bool | None
"""A value as the sampler, the database and a variant's label know it."""

_MAX_GRID = 10_000


class Axis(Frozen):
    """A choice that the search makes.

    Attributes:
        path: the dotted field that it sets; several fields, or a pattern such as ``g_*.split``,
            are tied and get the same value. Without one, the axis's name is the path.
        kind: ``categorical`` takes ``choices``; ``int`` and ``float`` take ``low`` and ``high``;
            ``override`` takes ``choices`` each of which sets fields of its own.
        choices: the values, or a label for each of them (for values that are mappings or lists);
            of an ``override``, a label for each mapping of dotted fields to values.
        low: least value.
        high: greatest value.
        step: distance between neighbouring values.
        log: whether values are spread by their logarithm.
        when: the axis acts only where each named earlier axis has one of the listed values.
    """

    path: str | tuple[str, ...] = ()
    kind: Literal["categorical", "int", "float", "override"] = "categorical"
    choices: tuple[JsonValue, ...] | dict[str, JsonValue] | None = Field(
        default=None, description="the values, or a mapping of labels to values"
    )
    low: float | None = None
    high: float | None = None
    step: float | None = Field(default=None, gt=0)
    log: bool = False
    when: dict[str, tuple[Key, ...]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _list_is_choices(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return {"choices": value}
        if isinstance(value, Mapping) and isinstance(value.get("when"), Mapping):
            when = {k: v if isinstance(v, list | tuple) else [v] for k, v in value["when"].items()}
            return {**value, "when": when}
        return value

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Axis:
        if self.kind == "override":
            if self.path:
                raise ConfigError("kind override takes no path; its choices name their fields")
            choices = self.choices if isinstance(self.choices, dict) else {"": self.choices}
            unnamed = [key for key, fields in choices.items() if not isinstance(fields, dict)]
            if unnamed:
                raise ConfigError(
                    f"choices{unnamed[0] and f'.{unnamed[0]}'}: kind override takes labels with "
                    "mappings of fields to values, such as {wide: {g_a.width: 64, g_s.width: 64}}"
                )
        if self.discrete:
            if not self.choices:
                raise ConfigError("choices are missing; list the values that the axis takes")
            if self.low is not None or self.high is not None or self.step is not None or self.log:
                raise ConfigError("low, high, step and log belong to kind int or float")
            keys = [key for key, _ in self.options]
            twice = [key for i, key in enumerate(keys) if _among(key, keys[:i])]
            if twice:
                raise ConfigError(f"choices: {twice[0]!r} stands there twice; leave one out")
            return self
        if self.choices is not None:
            raise ConfigError(f"kind {self.kind} takes low and high, not choices")
        if self.low is None or self.high is None:
            raise ConfigError(f"kind {self.kind} needs low and high")
        if not self.low < self.high:
            raise ConfigError(f"low = {self.low:g} is not below high = {self.high:g}")
        numbers = [n for n in (self.low, self.high, self.step) if n is not None]
        if self.kind == "int" and any(number != int(number) for number in numbers):
            raise ConfigError("kind int takes whole numbers for low, high and step")
        if self.log and self.low <= 0:
            raise ConfigError(f"log needs low above 0, not {self.low:g}")
        if self.log and self.step is not None:
            raise ConfigError("log and step exclude each other; leave one out")
        return self

    @property
    def discrete(self) -> bool:
        """Whether its values are listed."""
        return self.kind in ("categorical", "override")

    def paths(self, name: str) -> tuple[str, ...]:
        """Return the fields that the axis called ``name`` sets; not of an ``override``."""
        if isinstance(self.path, str):
            return (self.path,)
        return self.path or (name,)

    def changes(self, name: str, key: Key) -> dict[str, JsonValue]:
        """Return what the axis called ``name`` writes into the configuration for ``key``."""
        value = self.value(key)
        if self.kind == "override":
            assert isinstance(value, dict)
            return value
        return dict.fromkeys(self.paths(name), value)

    def says(self, name: str, key: Key) -> str:
        """Return ``key`` as labels say it: an ``override``'s choices have names of their own."""
        return show(key) if self.kind == "override" else f"{name} {show(key)}"

    @property
    def options(self) -> list[tuple[Key, JsonValue]]:
        """Each choice's key and value; only of a discrete axis."""
        if isinstance(self.choices, dict):
            return list(self.choices.items())
        return [(_key(value), value) for value in self.choices or ()]

    @property
    def ends(self) -> tuple[float, float]:
        """Least and greatest value of a range."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    def value(self, key: Key) -> JsonValue:
        """Return what ``key`` stands for."""
        if not self.discrete:
            return key
        for known, value in self.options:
            if same(known, key):
                return value
        raise ConfigError(f"{key!r} is not among its choices")

    def canonical(self, drawn: Key) -> Key:
        """Return the key that a sampler's value means; arithmetic may have moved its last digit."""
        if self.kind == "int":
            return int(drawn)  # type: ignore[arg-type]  # an IntDistribution draws numbers
        if self.kind == "float":
            return round(float(drawn), 12)  # type: ignore[arg-type]  # likewise
        keys = [key for key, _ in self.options]
        if _is_number(drawn) and all(map(_is_number, keys)):
            return min(keys, key=lambda key: abs(float(key) - float(drawn)))  # type: ignore[arg-type]
        return drawn

    def acts(self, params: Mapping[str, Key]) -> bool:
        """Say whether the axis has a value where the axes before it have ``params``."""
        return all(
            name in params and _among(params[name], allowed) for name, allowed in self.when.items()
        )

    def with_choice(self, value: JsonValue) -> Axis:
        """Return this axis with one more choice in front."""
        if isinstance(self.choices, dict):
            choices: Any = {str(_key(value)): value, **self.choices}
        else:
            choices = (value, *(self.choices or ()))
            if all(_is_number(choice) for choice in choices):
                choices = tuple(sorted(choices))
        return self.model_copy(update={"choices": choices})

    def grid(self) -> list[Key]:
        """Return every value.

        Raises:
            ConfigError: there are infinitely many.
        """
        if self.discrete:
            return [key for key, _ in self.options]
        if self.kind == "float" and self.step is None:
            raise ConfigError("a float axis without step has no grid; give step or choices")
        low, high = self.ends
        step = self.step or 1
        count = int((high - low) / step + 1e-9) + 1
        if count > _MAX_GRID:
            raise ConfigError(f"{count} values are too many for a grid; give a larger step")
        values = [low + i * step for i in range(count)]
        return [int(v) if self.kind == "int" else round(v, 12) for v in values]

    def distribution(self) -> BaseDistribution:
        """Return what Optuna's samplers draw from; evenly spaced numbers keep their order."""
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        if self.kind == "int":
            low, high = self.ends
            return IntDistribution(int(low), int(high), self.log, int(self.step or 1))
        if self.kind == "float":
            return FloatDistribution(*self.ends, self.log, self.step)
        keys = self.grid()
        step = _even_step(keys)
        if step is None:
            return CategoricalDistribution(keys)
        if all(isinstance(key, int) for key in keys):
            return IntDistribution(keys[0], keys[-1], step=int(step))  # type: ignore[arg-type]
        return FloatDistribution(keys[0], keys[-1], step=step)  # type: ignore[arg-type]


def show(key: Key) -> str:
    """Return a key as a word."""
    if isinstance(key, float):
        return f"{key:g}"
    return "none" if key is None else str(key)


def same(a: Key, b: Key) -> bool:
    """Say whether two keys mean one value; 1 and 1.0 do, 1 and true don't."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _among(key: Key, keys: Any) -> bool:
    return any(same(key, other) for other in keys)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _key(value: JsonValue) -> Key:
    """Return a choice itself if it is one word or number, else its JSON."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _even_step(keys: list[Key]) -> float | None:
    """Return the step of at least three ascending, evenly spaced numbers."""
    numbers = [float(key) for key in keys if _is_number(key)]  # type: ignore[arg-type]  # checked
    if len(numbers) < len(keys) or len(numbers) < 3:
        return None
    step = numbers[1] - numbers[0]
    gaps = (b - a for a, b in pairwise(numbers))
    if step <= 0 or any(abs(gap - step) > 1e-9 * max(map(abs, numbers)) for gap in gaps):
        return None
    return step

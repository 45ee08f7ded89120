"""The axes of a search: which fields each sets, which values it takes, and when it acts."""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeGuard, cast

from pydantic import BeforeValidator, ConfigDict, Field, JsonValue, field_validator, model_validator

from tcm_lab._utils import Frozen
from tcm_lab.codec import VariantConfig, read_field
from tcm_lab.errors import ConfigError, brief, near, one_of

if TYPE_CHECKING:  # Optuna is slow to import, and reading a space does not need it
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

Key: TypeAlias = str | int | float | bool | None
"""An axis value as it appears in records, conditions and labels."""

_MAX_GRID = 10_000
_LIMIT = 2**31
_LARGEST = 1e12
_DIGITS = 12  # decimals to keep: arithmetic on steps changes the last ones


class AxisBase(Frozen, ABC):
    """Base class of axes: common fields, and the interface to the search."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    path: str | tuple[str, ...] = ()
    """Dotted field to set. Several fields, or all that match a pattern such as ``g_*.split``, get
    the same value. Defaults to the axis's name."""
    when: dict[str, tuple[Key, ...]] = Field(default_factory=dict)
    """The axis acts only if each named earlier axis has one of the listed values."""

    @field_validator("when", mode="before")
    @classmethod
    def _one_value_is_a_list(cls, when: Any) -> Any:
        if isinstance(when, Mapping):
            return {k: v if isinstance(v, list | tuple) else [v] for k, v in when.items()}
        return when

    def _paths(self, name: str) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path or (name,)

    def changes(self, name: str, key: Key) -> dict[str, JsonValue]:
        """Return the fields that the axis called ``name`` sets for ``key``, with their values."""
        return dict.fromkeys(self._paths(name), self.value(key))

    def label(self, name: str, key: Key) -> str:
        """Return the label of ``key`` in tables."""
        return f"{name} {show(key)}"

    def acts(self, params: Mapping[str, Key]) -> bool:
        """Return whether the axis acts, given the keys ``params`` of the axes before it."""
        return all(n in params and _among(params[n], keys) for n, keys in self.when.items())

    def base_value(self, name: str, base: VariantConfig) -> JsonValue:
        """Return the base's value in the axis's fields; raise ConfigError if they differ."""
        tree = base.model_dump(mode="json")
        values: list[JsonValue] = [read_field(tree, path) for path in self._paths(name)]
        if any(value != values[0] for value in values):
            raise ConfigError(
                f"sets fields that differ in the base, {values}; give each its own axis"
            )
        return values[0]

    def value(self, key: Key) -> JsonValue:
        """Return the field value that ``key`` denotes."""
        return key

    def encode(self, key: Key) -> Key:
        """Return ``key`` in the form used by the sampler and the database."""
        return key

    def decode(self, drawn: Any) -> Key:
        """Return the key for a value from the sampler."""
        return cast("Key", drawn)

    def suggest(self, trial: Trial, name: str) -> Key:
        """Return the key that Optuna proposes, or the one fixed by the queue."""
        drawn: Any = self.distribution()
        if hasattr(drawn, "choices"):
            return self.decode(trial.suggest_categorical(name, drawn.choices))
        suggest: Any = trial.suggest_int if isinstance(drawn.low, int) else trial.suggest_float
        return self.decode(suggest(name, drawn.low, drawn.high, step=drawn.step, log=drawn.log))

    @abstractmethod
    def grid(self) -> list[Key]:
        """Return every key; raise ConfigError if there are too many."""

    @abstractmethod
    def distribution(self) -> BaseDistribution:
        """Return the Optuna distribution of encoded keys."""

    def check(self, name: str, base: VariantConfig) -> None:
        """Raise ConfigError if a path does not exist or a listed value can't be built."""
        self.base_value(name, base)

    @abstractmethod
    def base_key(self, name: str, base: VariantConfig) -> Key:
        """Return the key that leaves ``base`` unchanged; raise ConfigError if no key does."""

    def including(self, name: str, base: VariantConfig) -> AxisBase:
        """Return the axis with the base's own value among its choices, if choices can be added."""
        return self

    def draw(self, rng: random.Random) -> Key:
        """Draw a key uniformly."""
        return rng.choice(self.grid())


class _Listed(AxisBase):
    """An axis whose values are listed."""

    choices: tuple[JsonValue, ...] | dict[str, JsonValue] = Field(min_length=1)
    """Values, or a mapping of labels to values (for values that are mappings or lists)."""

    @field_validator("choices")
    @classmethod
    def _differ(cls, choices: Any) -> Any:
        keys = list(choices) if isinstance(choices, dict) else [_key(value) for value in choices]
        for index, key in enumerate(keys):
            if isinstance(key, int | float) and not abs(key) <= _LARGEST:
                raise ConfigError(f"{brief(str(key))} is too large or not a number")
            if _among(key, keys[:index]):
                raise ConfigError(f"duplicate choice {brief(repr(key))}")
        return choices

    def grid(self) -> list[Key]:
        return list(self.choices) if isinstance(self.choices, dict) else [*map(_key, self.choices)]

    def value(self, key: Key) -> JsonValue:
        values = self.choices.values() if isinstance(self.choices, dict) else self.choices
        for known, value in zip(self.grid(), values, strict=True):
            if same(known, key):
                return value
        keys = ", ".join(map(show, self.grid()))
        raise ConfigError(f"{brief(show(key))} is not among the choices {keys}")

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.grid())

    def check(self, name: str, base: VariantConfig) -> None:
        for key in self.grid():
            try:
                base.override(self.changes(name, key))
            except ConfigError as error:
                raise ConfigError(f"value {brief(show(key))}: {error}") from None

    def base_key(self, name: str, base: VariantConfig) -> Key:
        for key in self.grid():
            if base.override(self.changes(name, key)).fingerprint == base.fingerprint:
                return key
        raise ConfigError("the base's own value is not among the choices")

    def including(self, name: str, base: VariantConfig) -> AxisBase:
        try:
            self.base_key(name, base)
        except ConfigError:
            return self.model_copy(update={"choices": self._with_base(name, base)})
        return self

    def _with_base(self, name: str, base: VariantConfig) -> Any:
        """Return the choices with the base's value, labelled ``base`` if long; sort numbers."""
        own = self.base_value(name, base)
        if isinstance(self.choices, dict):
            plain = not isinstance(own, dict | list) or "base" in self.choices
            return {str(_key(own)) if plain else "base": own, **self.choices}
        choices = (own, *self.choices)
        return tuple(sorted(choices)) if all(map(_is_number, choices)) else choices


class CategoricalAxis(_Listed):
    """Values without an order; a plain list is shorthand for this."""

    kind: Literal["categorical"] = "categorical"


class OrdinalAxis(_Listed):
    """Ordered values: the sampler may assume that neighbours are similar."""

    kind: Literal["ordinal"]

    def encode(self, key: Key) -> int:
        """Return the key's position in the order."""
        return next(place for place, known in enumerate(self.grid()) if same(known, key))

    def decode(self, drawn: Any) -> Key:
        """Return the key at a position in the order."""
        return self.grid()[int(drawn)]

    def distribution(self) -> BaseDistribution:
        """Return the distribution of positions in the order."""
        from optuna.distributions import IntDistribution

        return IntDistribution(0, len(self.choices) - 1)

    def _with_base(self, name: str, base: VariantConfig) -> Any:
        choices = super()._with_base(name, base)
        if not all(map(_is_number, choices)):
            raise ConfigError(
                f"the base has {self.base_value(name, base)!r}; list it where it belongs in the "
                "order, so that the baseline is one of the variants"
            )
        return choices


class OverrideAxis(_Listed):
    """Choices that each set their own fields."""

    kind: Literal["override"]
    path: Literal[""] = ""
    """Not used: the choices name their fields."""
    choices: dict[str, JsonValue] = Field(min_length=1)
    """A label for each mapping of dotted fields to values."""

    @field_validator("path", mode="before")
    @classmethod
    def _has_no_path(cls, path: Any) -> Any:
        if path:
            raise ConfigError("an override takes no path; its choices name their fields")
        return path

    @field_validator("choices", mode="before")
    @classmethod
    def _are_mappings(cls, choices: Any) -> Any:
        named = choices if isinstance(choices, Mapping) else {"": choices}
        for label, fields in named.items():
            if not isinstance(fields, Mapping):
                raise ConfigError(
                    f"{label or 'a list'}: write labels with mappings of fields to values, such as "
                    "{wide: {g_a.width: 64, g_s.width: 64}}"
                )
        return choices

    def changes(self, name: str, key: Key) -> dict[str, JsonValue]:
        """Return the fields that the choice sets."""
        return cast("dict[str, JsonValue]", self.value(key))

    def label(self, name: str, key: Key) -> str:
        """Return the choice's label."""
        return show(key)

    def _with_base(self, name: str, base: VariantConfig) -> Any:
        if "base" in self.choices:
            raise ConfigError("choices.base: this label is reserved for the base; choose another")
        return {"base": {}, **self.choices}


class _Range(AxisBase):
    """A range of numbers."""

    low: float
    high: float
    step: float | None
    log: bool = False
    """Whether values are spread evenly on a logarithmic scale."""

    @model_validator(mode="after")
    def _is_a_range(self) -> _Range:
        if not self.low < self.high:
            raise ConfigError(f"low = {self.low:g} is not below high = {self.high:g}")
        if self.log and (self.low <= 0 or "step" in self.model_fields_set):
            raise ConfigError(f"log needs low above 0, not {self.low:g}, and takes no step")
        return self

    @property
    def _count(self) -> int | None:
        """Number of values; None for a continuous range."""
        return None if self.step is None else int((self.high - self.low) / self.step + 1e-9) + 1

    def _at(self, place: int) -> Key:
        return self.decode(self.low + place * (self.step or 0))

    def grid(self) -> list[Key]:
        count = self._count
        if count is None:
            raise ConfigError("a float axis without step has no grid; give step or choices")
        if count > _MAX_GRID:
            what = f"step = {self.step:g} makes {count} values, too many for a grid"
            raise ConfigError(f"{what}; give a larger step")
        return [self._at(place) for place in range(count)]

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution, IntDistribution

        # End at the last step: Optuna warns about any other end.
        high: Any = self.high if self._count is None else self._at(self._count - 1)
        if isinstance(self.low, int):
            return IntDistribution(self.low, high, self.log, int(self.step or 1))
        return FloatDistribution(self.low, high, self.log, self.step)

    def draw(self, rng: random.Random) -> Key:
        """Draw a value uniformly, on a linear or a logarithmic scale."""
        if self._count is not None and not self.log:
            return self._at(rng.randrange(self._count))
        low, high = self.low, self.high
        drawn = low * (high / low) ** rng.random() if self.log else rng.uniform(low, high)
        return self.decode(drawn if self.step is None else round(drawn))

    def base_key(self, name: str, base: VariantConfig) -> Key:
        value = self.base_value(name, base)
        if not _is_number(value):
            raise ConfigError(f"the base has {brief(repr(value))}, which is not a number")
        steps = (value - self.low) / self.step if self.step else 0.0
        if not self.low <= value <= self.high or abs(steps - round(steps)) > 1e-9:
            raise ConfigError(
                f"the base's own value {value:g} is not in the range from {self.low:g} to "
                f"{self.high:g}; widen it, so that the baseline is one of the variants"
            )
        return value


_Whole = Annotated[int, Field(ge=-_LIMIT, le=_LIMIT)]
_Bounded = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST)]


class IntegerAxis(_Range):
    """A range of whole numbers."""

    kind: Literal["integer"]
    low: _Whole
    """Smallest value."""
    high: _Whole
    """Largest value."""
    step: Annotated[int, Field(gt=0, le=_LIMIT)] = 1
    """Distance between neighbouring values."""


class FloatAxis(_Range):
    """A range of numbers."""

    kind: Literal["float"]
    low: _Bounded
    """Smallest value."""
    high: _Bounded
    """Largest value."""
    step: Annotated[float, Field(ge=10.0**-_DIGITS, le=_LARGEST)] | None = None
    """Distance between neighbouring values; without it, the range is continuous."""

    def decode(self, drawn: Any) -> Key:
        """Return a number rounded to remove floating-point error."""
        return round(float(drawn), _DIGITS)


_KINDS = ("categorical", "ordinal", "integer", "float", "override")


def _long_form(axis: Any) -> Any:
    """Expand a plain list, or a mapping without ``kind``, to a categorical axis."""
    if not isinstance(axis, Mapping):
        return {"kind": "categorical", "choices": axis} if isinstance(axis, list | tuple) else axis
    kind = axis.get("kind", "categorical")
    if kind not in _KINDS:
        shown = brief(repr(kind))
        raise ConfigError(f"kind = {shown}:{near(str(kind), _KINDS)} Write {one_of(_KINDS)}")
    return {**axis, "kind": kind}


Axis: TypeAlias = Annotated[
    CategoricalAxis | OrdinalAxis | IntegerAxis | FloatAxis | OverrideAxis,
    Field(discriminator="kind"),
    BeforeValidator(_long_form),
]
"""A search axis of any ``kind``."""


def show(key: Key) -> str:
    """Return a key as text."""
    if isinstance(key, float):
        return f"{key:g}"
    return "none" if key is None else str(key)


def same(a: Key, b: Key) -> bool:
    """Return whether two keys denote the same value: 1 and 1.0 do, 1 and true don't."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _among(key: Key, keys: Iterable[Key]) -> bool:
    return any(same(key, other) for other in keys)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _key(value: JsonValue) -> Key:
    """Return a choice itself if it is a single word or number, else its JSON."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return json.dumps(value, separators=(",", ":"), sort_keys=True)

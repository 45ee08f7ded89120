"""From a space to its variants: checked against the base, counted, enumerated without repeats."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from tcm_lab.codec import VariantConfig
from tcm_lab.codec.overrides import read_field
from tcm_lab.errors import ConfigError
from tcm_lab.study.axes import Axis, Key, same, show
from tcm_lab.study.space import Space

Params = Mapping[str, Key]


@dataclass(frozen=True)
class Variant:
    """One point of a space.

    Attributes:
        params: the key of every axis that acts, by axis.
        config: the codec.
        label: what tables call it within the study.
        is_baseline: whether it is the base itself.
    """

    params: dict[str, Key]
    config: VariantConfig
    label: str
    is_baseline: bool

    @property
    def fingerprint(self) -> str:
        """The codec's identity: equal for equal codecs, whatever they are called."""
        return self.config.fingerprint


class Assembler:
    """Makes a space's variants."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.base = space.baseline()

    def build(self, params: Params) -> Variant:
        """Return the variant that ``params`` mean.

        Raises:
            ConfigError: these values together make no codec.
        """
        changes: dict[str, Any] = {}
        for name, key in params.items():
            for path, value in self.space.axes[name].changes(name, key).items():
                changes.pop(path, None)  # set anew, so that it acts at its place in the order
                changes[path] = value
        label = ", ".join(self.space.axes[name].says(name, key) for name, key in params.items())
        config = self.base.override({**changes, "name": _config_name(self.base.name, params)})
        baseline = config.fingerprint == self.base.fingerprint
        return Variant(dict(params), config, label or "baseline", baseline)

    def baseline(self) -> Variant:
        """Return the base as a point of the space."""
        return self.build(self.baseline_params())

    def baseline_params(self) -> dict[str, Key]:
        """Return the key at which every axis leaves the base as it is."""
        params: dict[str, Key] = {}
        for name, axis in self.space.axes.items():
            if axis.acts(params):
                params[name] = own_key(self.base, name, axis)
        return params

    def all(self) -> Iterator[Variant]:
        """Yield every different variant once, the baseline first; what can't be built is left out.

        Only for an enumerated space.
        """
        seen: set[str] = set()
        baseline = self.baseline()
        for params in self.points():
            try:
                variant = self.build(params)
            except ConfigError:
                continue
            if not seen:
                seen.add(baseline.fingerprint)
                yield baseline
            if variant.fingerprint not in seen:
                seen.add(variant.fingerprint)
                yield variant

    def count(self) -> int | None:
        """Return how many points the axes span, or None if infinitely many."""
        if self.space.mode == "ablation":
            return sum(1 for _ in self._one_at_a_time())
        return _count(self.space.axes, {}, {n for a in self.space.axes.values() for n in a.when})

    def points(self) -> Iterator[dict[str, Key]]:
        """Yield every combination of values that the mode looks at, repeats included."""
        if self.space.mode == "ablation":
            return self._one_at_a_time()
        return _points(list(self.space.axes.items()), {})

    def _one_at_a_time(self) -> Iterator[dict[str, Key]]:
        origin = self.baseline_params()
        yield origin
        for name in origin:
            for key in self.space.axes[name].grid():
                if same(key, origin[name]):
                    continue
                params: dict[str, Key] = {}
                for other, axis in self.space.axes.items():
                    if not axis.acts(params):
                        continue
                    if other == name:
                        params[other] = key
                    elif other in origin:
                        params[other] = origin[other]
                    else:  # acts only now: its first value goes with the change
                        params[other] = axis.grid()[0]
                yield params


def fit_to_base(space: Space) -> Space:
    """Check every axis against the base; the base's own value joins the choices that lack it.

    Raises:
        ConfigError: a path leads nowhere, a value can't be built, or the base lies outside a
            range. The message names the axis, the value and the fix.
    """
    base = space.baseline()
    axes: dict[str, Axis] = {}
    params: dict[str, Key] = {}
    for name, axis in space.axes.items():
        acts = axis.acts(params)
        stage = base if acts else _where_it_acts(base, axes, axis)
        axis = _checked(stage, name, axis)
        if acts:
            axis = _with_own_value(base, name, axis)
            params[name] = own_key(base, name, axis)
        axes[name] = axis
    return space.model_copy(update={"axes": axes})


def own_key(base: VariantConfig, name: str, axis: Axis) -> Key:
    """Return the key at which ``axis`` leaves ``base`` as it is."""
    if not axis.discrete:
        value = _own_value(base, name, axis)
        assert isinstance(value, int | float)
        return value
    for key, _ in axis.options:
        try:
            changed = base.override(axis.changes(name, key))
        except ConfigError:
            continue
        if changed.fingerprint == base.fingerprint:
            return key
    raise ConfigError(f"axes.{name}: the base's own value is not among its choices")


def _with_own_value(base: VariantConfig, name: str, axis: Axis) -> Axis:
    if axis.discrete:
        try:
            own_key(base, name, axis)
        except ConfigError:
            return _with_base(base, name, axis)
        return axis
    value = _own_value(base, name, axis)
    low, high = axis.ends
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"axes.{name}: the base has {value!r} there, which is no number")
    steps = (value - low) / (axis.step or (1 if axis.kind == "int" else 0) or 1)
    on_grid = (axis.kind == "float" and axis.step is None) or abs(steps - round(steps)) < 1e-9
    if not low <= value <= high or not on_grid:
        raise ConfigError(
            f"axes.{name}: the base's own value {value:g} is not in the range from {low:g} "
            f"to {high:g}; widen it, so that the baseline is one of the variants"
        )
    return axis


def _with_base(base: VariantConfig, name: str, axis: Axis) -> Axis:
    """Return the axis with one more choice, which leaves the base as it is."""
    if axis.kind == "categorical":
        return axis.with_choice(_own_value(base, name, axis))
    choices = dict(axis.options)
    if "base" in choices:
        raise ConfigError(f"axes.{name}.choices.base: is the base's name; call it otherwise")
    return axis.model_copy(update={"choices": {"base": {}, **choices}})


def _own_value(base: VariantConfig, name: str, axis: Axis) -> JsonValue:
    tree = base.model_dump(mode="json")
    values: list[JsonValue] = [read_field(tree, path) for path in axis.paths(name)]
    if any(value != values[0] for value in values):
        raise ConfigError(
            f"axes.{name}: ties fields that differ in the base ({values}); give each its own axis"
        )
    return values[0]


def _checked(base: VariantConfig, name: str, axis: Axis) -> Axis:
    """Try every choice alone, or both ends of a range."""
    ends = [_number(axis, axis.low), _number(axis, axis.high)]
    keys = [key for key, _ in axis.options] if axis.discrete else ends
    for key in keys:
        try:
            base.override(axis.changes(name, key))
        except ConfigError as error:
            if axis.discrete or "no field" in str(error):
                value = key if axis.kind == "override" else axis.value(key)
                what = "" if "no field" in str(error) else f"value {value!r}: "
                raise ConfigError(f"axes.{name}: {what}{error}") from None
    return axis


def _number(axis: Axis, value: float | None) -> Key:
    return int(value) if axis.kind == "int" and value is not None else value


def _where_it_acts(base: VariantConfig, axes: Mapping[str, Axis], axis: Axis) -> VariantConfig:
    """Return the base changed so that a conditional axis acts."""
    changed = base
    for name, allowed in axis.when.items():
        other = axes[name]
        changed = _where_it_acts(changed, axes, other)
        if other.discrete and not any(same(key, allowed[0]) for key, _ in other.options):
            keys = ", ".join(show(key) for key, _ in other.options)
            raise ConfigError(f"when: {name} never is {show(allowed[0])}; its choices are {keys}")
        changed = changed.override(other.changes(name, allowed[0]))
    return changed


def _points(axes: list[tuple[str, Axis]], params: dict[str, Key]) -> Iterator[dict[str, Key]]:
    if not axes:
        yield params
        return
    (name, axis), rest = axes[0], axes[1:]
    if not axis.acts(params):
        yield from _points(rest, params)
        return
    for key in axis.grid():
        yield from _points(rest, {**params, name: key})


def _count(axes: Mapping[str, Axis], params: dict[str, Key], deciding: set[str]) -> int | None:
    """Count points, branching only on the axes that conditions look at."""
    total = 1
    rest = dict(axes)
    for name, axis in axes.items():
        del rest[name]
        if not axis.acts(params):
            continue
        try:
            keys = axis.grid()
        except ConfigError:
            return None
        if name not in deciding:
            total *= len(keys)
            continue
        branches = [_count(rest, {**params, name: key}, deciding) for key in keys]
        if any(branch is None for branch in branches):
            return None
        return total * sum(branch for branch in branches if branch is not None)
    return total


def _config_name(base: str, params: Params) -> str:
    words = [base, *(f"{name}={show(key)}" for name, key in params.items())]
    return re.sub(r"[^A-Za-z0-9 ._/@=,+*?-]+", "-", " ".join(words))

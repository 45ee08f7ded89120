"""Options of each axis on its own: what they change in the base, other axes unchanged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tcm_lab.codec import VariantConfig
from tcm_lab.errors import ConfigError, brief
from tcm_lab.study.axes import AxisBase, FloatAxis, IntegerAxis, Key, same, show


def include_base(axes: Mapping[str, AxisBase], base: VariantConfig) -> dict[str, AxisBase]:
    """Check every axis against the base, and add the base's own value to choices that lack it.

    Raises:
        ConfigError: the message names the axis, its value and the fix.
    """
    fitted = dict[str, AxisBase]()
    params: dict[str, Key] = {}
    for name, axis in axes.items():
        try:
            _check_conditions(axis, fitted)
            if axis.acts(params):
                axis.check(name, base)
                fitted[name] = axis.including(name, base)
                params[name] = fitted[name].base_key(name, base)
            else:
                axis.check(name, _where_it_acts(base, fitted, axis))
                fitted[name] = axis
        except ConfigError as error:
            raise ConfigError(f"axes.{name}: {error}") from None
    return fitted


def _check_conditions(axis: AxisBase, earlier: Mapping[str, AxisBase]) -> None:
    """Raise ConfigError if a condition of an axis lists a value that the earlier axis never has."""
    for name, keys in axis.when.items():
        try:
            known = earlier[name].grid()
        except ConfigError:  # too many values, or a continuous range
            continue
        for key in keys:
            if not any(same(key, other) for other in known):
                values = brief(", ".join(map(show, known)))
                raise ConfigError(f"when.{name}: {brief(show(key))} is not among {values}")


def options_alone(
    axes: Mapping[str, AxisBase], base: VariantConfig
) -> Iterator[tuple[str, Key, VariantConfig]]:
    """Yield each axis's name, each of its values (for a range, its ends), and the configuration.

    Args:
        axes: axes as returned by `include_base`.
        base: configuration to change.
    """
    params: dict[str, Key] = {}
    for name, axis in axes.items():
        origin = base
        if axis.acts(params):
            params[name] = axis.base_key(name, base)
        else:
            origin = _where_it_acts(base, axes, axis)
        for key in _ends(axis):
            try:
                config = origin.override(axis.changes(name, key))
            except ConfigError:  # an end of a range that can't be built alone
                continue
            yield name, key, config


def _ends(axis: AxisBase) -> Sequence[Key]:
    return (axis.low, axis.high) if isinstance(axis, IntegerAxis | FloatAxis) else axis.grid()


def _where_it_acts(
    base: VariantConfig, axes: Mapping[str, AxisBase], axis: AxisBase
) -> VariantConfig:
    """Return the base changed so that a conditional axis acts."""
    for name, allowed in axis.when.items():
        base = _where_it_acts(base, axes, axes[name])
        base = base.override(axes[name].changes(name, allowed[0]))
    return base

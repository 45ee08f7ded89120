"""Registries by name: layers, metrics and whatever else a user may add."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Generic, Literal, TypeVar, cast

from pydantic import create_model
from pydantic.errors import PydanticUserError

from tcm_lab._utils.models import Frozen
from tcm_lab.errors import ConfigError, brief, first_line, lookup, one_of

V = TypeVar("V")
C = TypeVar("C", bound=Frozen)

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.+/-]*")
_READ_BY_YAML = ("null", "true", "false", "yes", "no", "on", "off")


class Registry(Mapping[str, V], Generic[V]):
    """A mapping from registered names to values, in the order of registration.

    Error messages call an entry by its ``kind``, such as ``block`` or ``metric``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._values: dict[str, V] = {}

    def __getitem__(self, name: str) -> V:
        return lookup(self._values, name, self.kind)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def add(self, name: str, value: V) -> None:
        """Register ``value`` as ``name``.

        Raises:
            ConfigError: as `check_name`.
        """
        self.check_name(name)
        self._values[name] = value

    def check_name(self, name: object) -> None:
        """Refuse a name that cannot be registered.

        Raises:
            ConfigError: the name is not a string, is not read as one by YAML, or is taken.
        """
        if not isinstance(name, str):
            raise ConfigError(
                f"{brief(repr(name))} is not a name; register the {self.kind} under a string, such "
                f"as @register_{self.kind.replace(' ', '_')}('my-{self.kind.replace(' ', '-')}')"
            )
        if not _NAME.fullmatch(name) or name.lower() in _READ_BY_YAML:
            raise ConfigError(
                f"'{name}' cannot name a {self.kind}: use a letter, then letters, digits and "
                f"-_.+/, and none of YAML's {one_of(_READ_BY_YAML)}"
            )
        if name in self._values:
            owner = getattr(self._values[name], "__qualname__", "another")
            raise ConfigError(
                f"the {self.kind} name '{name}' is taken by {owner}; "
                f"register yours under another name, or unregister('{name}') first"
            )

    def unregister(self, name: str) -> None:
        """Remove ``name``, for tests and for notebooks that define a class again."""
        self._values.pop(name, None)


class ConfigRegistry(Registry[type[C]], Generic[C]):
    """Configuration classes by registered name, all derived from ``base``."""

    def __init__(self, kind: str, base: type[Any]) -> None:
        super().__init__(kind)
        self.base = base

    def parse(self, value: object) -> C:
        """Return the configuration given by a name, or by a mapping with ``type`` and options.

        Raises:
            ConfigError: the name or an option is unknown, or an option's value is refused.
        """
        if isinstance(value, self.base):
            return cast("C", value)
        if isinstance(value, str):
            value = {"type": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
            raise ConfigError(
                f"{self.kind} {brief(repr(value))}: write a name, or a mapping with 'type' and "
                "options"
            )
        name = value["type"]
        return self[name].parse(dict(value), f"{name}: ")


def named_config(name: str, base: type[C], options: Mapping[str, Any]) -> type[C]:
    """Return a subclass of ``base`` with more options, and its ``type`` fixed to ``name``.

    Raises:
        ConfigError: the options cannot be read from YAML.
    """
    fields: dict[str, Any] = {"type": (Literal[name], name), **options}
    try:
        named = create_model(base.__name__, __base__=base, __module__=base.__module__, **fields)
    except (PydanticUserError, TypeError, NameError) as error:
        raise ConfigError(
            f"{base.__qualname__}'s options cannot be read from YAML: {first_line(error)}"
        ) from None
    named.__qualname__ = base.__qualname__
    named.__doc__ = base.__doc__
    return named

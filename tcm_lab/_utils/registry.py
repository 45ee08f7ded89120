"""Things by registered name: layers, metrics and whatever else a user may add."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from tcm_lab.errors import ConfigError, lookup, one_of

V = TypeVar("V")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.+/-]*")
_READ_BY_YAML = ("null", "true", "false", "yes", "no", "on", "off")


class Registry(Mapping[str, V], Generic[V]):
    """A mapping from registered names to values, in the order of registration.

    Messages call what is registered by its ``kind``, such as ``block`` or ``metric``.
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
            ConfigError: as by `check_name`.
        """
        self.check_name(name)
        self._values[name] = value

    def check_name(self, name: object) -> None:
        """Refuse what cannot be registered as a name.

        Raises:
            ConfigError: it is not a string that YAML reads as one, or it is taken.
        """
        if not isinstance(name, str):
            raise ConfigError(
                f"{name!r} is not a name; register the {self.kind} under a string, such as "
                f"@register_{self.kind.replace(' ', '_')}('my-{self.kind.replace(' ', '-')}')"
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

"""Names for layers: a block, attention module or resampler registered here is usable from YAML.

Three kinds of layer stand in a codec, each with a registry of its own:

* a **block** keeps its channels and its size, and is stacked ``depth`` times in a stage;
* an **attention** module keeps both too, and stands once: in the entropy model or behind a stage;
* a **resampler** changes the channels and, usually, the size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Literal, TypeVar, cast

from pydantic import ValidationError, create_model
from torch import nn

from tcm_lab._utils import Frozen
from tcm_lab.blocks.cost import Cost
from tcm_lab.errors import ConfigError, near, one_of


class NoFormula(LookupError):
    """A layer that has no closed formula for its cost; a counter must run it instead."""


class LayerConfig(Frozen):
    """Typed, frozen, validated options of a registered layer; ``type`` is its registered name."""

    type: str


class BlockConfig(LayerConfig):
    """Options of a block: (B, C, H, W) to (B, C, H, W), stacked in a stage."""

    def check(self, channels: int) -> None:
        """Refuse a width that the block cannot have.

        Raises:
            ConfigError: the message names the option, its value and the nearest that work.
        """

    def build(self, channels: int, index: int) -> nn.Module:
        """Build the block of ``channels`` that stands at place ``index`` of its stage."""
        raise NoFormula(f"{type(self).__name__} says neither build() nor which module it builds")

    def cost(self, channels: int, height: int, width: int) -> Cost:
        """Return the block's cost on one feature map of ``height`` x ``width``.

        Raises:
            NoFormula: the block has none.
        """
        raise NoFormula(f"the block '{self.type}' has no closed formula for its cost")


class AttentionConfig(LayerConfig):
    """Options of an attention module: (B, C, H, W) to (B, C, H, W), standing once."""

    def check(self, channels: int) -> None:
        """Refuse a width that the module cannot have.

        Raises:
            ConfigError: the message names the option, its value and the nearest that work.
        """

    def build(self, channels: int) -> nn.Module:
        """Build the module for ``channels``."""
        raise NoFormula(f"{type(self).__name__} says neither build() nor which module it builds")

    def cost(self, channels: int, height: int, width: int) -> Cost:
        """Return the module's cost on one feature map of ``height`` x ``width``.

        Raises:
            NoFormula: the module has none.
        """
        raise NoFormula(f"the attention '{self.type}' has no closed formula for its cost")


Direction = Literal["analysis", "synthesis"]


class ResamplerConfig(LayerConfig):
    """Options of a resampler: (B, C_in, H, W) to (B, C_out, H/s, W/s) or (B, C_out, sH, sW)."""

    @property
    def factor(self) -> int:
        """How many times smaller (analysis) or larger (synthesis) the output's sides are."""
        return 2

    def check(self, c_in: int, c_out: int) -> None:
        """Refuse channels that the resampler cannot connect.

        Raises:
            ConfigError: the message names what does not fit.
        """

    def build(self, c_in: int, c_out: int, direction: Direction) -> nn.Module:
        """Build the module that shrinks (``analysis``) or enlarges (``synthesis``)."""
        raise NoFormula(f"{type(self).__name__} says neither build() nor which module it builds")

    def cost(self, c_in: int, c_out: int, direction: Direction, height: int, width: int) -> Cost:
        """Return the cost on one **input** feature map of ``height`` x ``width``.

        Raises:
            NoFormula: the resampler has none.
        """
        raise NoFormula(f"the resampler '{self.type}' has no closed formula for its cost")


C = TypeVar("C", bound=LayerConfig)
Registrable = TypeVar("Registrable", bound=type)


class Registry(Mapping[str, type[C]], Generic[C]):
    """Configuration classes by registered name.

    Args:
        kind: what is registered, for messages: ``block``, ``attention``, ``resampler``.
        base: the class that every registered configuration derives from.
    """

    def __init__(self, kind: str, base: type[C]) -> None:
        self.kind = kind
        self.base = base
        self._classes: dict[str, type[C]] = {}

    def __getitem__(self, name: str) -> type[C]:
        try:
            return self._classes[name]
        except KeyError:
            known = f" Known: {one_of(sorted(self._classes))}."
            raise ConfigError(
                f"no {self.kind} is called '{name}'.{near(name, self._classes)}{known}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def __len__(self) -> int:
        return len(self._classes)

    def register(self, name: str) -> Callable[[Registrable], Registrable]:
        """Return a class decorator that registers its class as ``name``.

        The class is either a configuration (a subclass of ``base`` with fields, ``build`` and, if
        it likes, ``check`` and ``cost``), or an ``nn.Module`` whose first argument is the number
        of channels and whose other arguments, with their annotations and defaults, become the
        options.

        Raises:
            ConfigError: the name is taken, or the class is neither.
        """
        if name in self._classes:
            raise ConfigError(
                f"the {self.kind} name '{name}' is taken by "
                f"{self._classes[name].__qualname__}; register yours under another name"
            )

        def decorate(cls: Registrable) -> Registrable:
            if issubclass(cls, self.base):
                config = self._named(name, cls)
                self._classes[name] = config
                return cast("Registrable", config)  # a subclass of what came in
            if issubclass(cls, nn.Module):
                self._classes[name] = self._from_module(name, cls)
                return cls
            raise ConfigError(
                f"{self.kind} '{name}': {cls.__qualname__} is neither a {self.base.__name__} "
                "nor a torch.nn.Module"
            )

        return decorate

    def unregister(self, name: str) -> None:
        """Take ``name`` out again (for tests and notebooks that define a block twice)."""
        self._classes.pop(name, None)

    def parse(self, value: object) -> C:
        """Return the configuration that ``value`` spells.

        Args:
            value: a configuration, a registered name, or a mapping with ``type`` and options.

        Raises:
            ConfigError: the name or an option is unknown, or an option's value is refused.
        """
        if isinstance(value, self.base):
            return value
        if isinstance(value, str):
            value = {"type": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
            raise ConfigError(
                f"{value!r} is no {self.kind}; write a name, or a mapping with 'type' and options"
            )
        config_class = self[value["type"]]
        try:
            return config_class(**value)
        except ValidationError as error:
            raise ConfigError(_first_error(error, config_class, value)) from None

    def _named(self, name: str, cls: type[Any]) -> type[C]:
        """Return ``cls`` with its ``type`` fixed to ``name``."""
        fields: dict[str, Any] = {"type": (Literal[name], name)}
        named: Any = create_model(cls.__name__, __base__=cls, __module__=cls.__module__, **fields)
        named.__qualname__ = cls.__qualname__
        named.__doc__ = cls.__doc__
        return cast("type[C]", named)

    def _from_module(self, name: str, module: type[nn.Module]) -> type[C]:
        """Return a configuration whose fields are the options of ``module``'s constructor."""
        parameters = list(inspect.signature(module, eval_str=True).parameters.values())
        fields: dict[str, Any] = {
            p.name: (
                Any if p.annotation is p.empty else p.annotation,
                ... if p.default is p.empty else p.default,
            )
            for p in parameters[1:]
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        }
        config = create_model(
            f"{module.__name__}Config", __base__=self.base, __module__=module.__module__, **fields
        )

        def build(self: LayerConfig, channels: int, index: int = 0) -> nn.Module:
            del index
            return module(channels, **{field: getattr(self, field) for field in fields})

        config.build = build  # type: ignore[attr-defined]
        return self._named(name, config)


def _first_error(error: ValidationError, cls: type[LayerConfig], value: Mapping[str, Any]) -> str:
    """Say the first validation error in one line: the option, its value and what would work."""
    first = error.errors()[0]
    option = str(first["loc"][0]) if first["loc"] else ""
    options = [field for field in cls.model_fields if field != "type"]
    if first["type"] == "extra_forbidden":
        known = one_of(options) if options else "no options"
        return f"'{value['type']}' has no option '{option}'.{near(option, options)} It has {known}."
    return f"{option} = {value.get(option)!r}: {first['msg'].removeprefix('Value error, ')}"


BLOCKS: Registry[BlockConfig] = Registry("block", BlockConfig)
ATTENTIONS: Registry[AttentionConfig] = Registry("attention", AttentionConfig)
RESAMPLERS: Registry[ResamplerConfig] = Registry("resampler", ResamplerConfig)

register_block = BLOCKS.register
register_attention = ATTENTIONS.register
register_resampler = RESAMPLERS.register

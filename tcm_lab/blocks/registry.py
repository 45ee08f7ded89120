"""Names for layers: a block, attention module or resampler registered here is usable from YAML.

A codec consists of three kinds of layer, each with a registry of its own:

* a **block** keeps its channels and its size, and is stacked ``depth`` times in a stage;
* an **attention** module keeps both too, and occurs once: in the entropy model or after a stage;
* a **resampler** changes the channels and, usually, the size.
"""

from __future__ import annotations

import inspect
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Generic, Literal, TypeVar, cast

from pydantic import ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.json_schema import PydanticJsonSchemaWarning
from pydantic_core import PydanticSerializationError
from torch import nn

from tcm_lab._utils import Frozen, Registry
from tcm_lab.blocks.cost import Cost
from tcm_lab.errors import ConfigError, validation_message

ResampleDirection = Literal["down", "up"]
#: Names under which a module's number of channels may have a default.
_WIDTHS = ("channels", "in_channels", "out_channels", "c_in", "c_out", "dim", "width")


class NoFormula(LookupError):
    """A layer without a closed formula for its cost; a counter must run it instead."""


class LayerConfig(Frozen):
    """Typed, frozen, validated options of a registered layer; ``type`` is its registered name."""

    type: str


class SameSizeConfig(LayerConfig):
    """Options of a layer that keeps its channels and its size."""

    def check(self, channels: int) -> None:
        """Refuse a width that the layer cannot have.

        Raises:
            ConfigError: the message names the option, its value and the nearest that work.
        """

    def cost(self, channels: int, height: int, width: int) -> Cost:
        """Return the layer's cost on one feature map of ``height`` x ``width``.

        Raises:
            NoFormula: the layer has none.
        """
        raise NoFormula(f"the layer '{self.type}' has no closed formula for its cost")


class BlockConfig(SameSizeConfig):
    """Options of a block: (B, C, H, W) to (B, C, H, W), stacked in a stage."""

    @abstractmethod
    def build(self, channels: int, index: int) -> nn.Module:
        """Build the block of ``channels`` at place ``index`` of its stage."""


class AttentionConfig(SameSizeConfig):
    """Options of an attention module: (B, C, H, W) to (B, C, H, W), used once."""

    @abstractmethod
    def build(self, channels: int) -> nn.Module:
        """Build the module for ``channels``."""


class ResamplerConfig(LayerConfig):
    """Options of a resampler: (B, C_in, H, W) to (B, C_out, H/s, W/s) or (B, C_out, sH, sW)."""

    @property
    def factor(self) -> int:
        """How many times smaller (``down``) or larger (``up``) the output's sides are."""
        return 2

    def check(self, c_in: int, c_out: int) -> None:
        """Refuse channels that the resampler cannot connect.

        Raises:
            ConfigError: the message names what does not fit.
        """

    @abstractmethod
    def build(self, c_in: int, c_out: int, direction: ResampleDirection) -> nn.Module:
        """Build the module that shrinks (``down``, analysis) or enlarges (``up``, synthesis)."""

    def cost(
        self, c_in: int, c_out: int, direction: ResampleDirection, height: int, width: int
    ) -> Cost:
        """Return the cost on one **input** feature map of ``height`` x ``width``.

        Raises:
            NoFormula: the resampler has none.
        """
        raise NoFormula(f"the resampler '{self.type}' has no closed formula for its cost")


C = TypeVar("C", bound=LayerConfig)
Registrable = TypeVar("Registrable", bound=type)


class LayerRegistry(Registry[type[C]], Generic[C]):
    """Configuration classes of layers by registered name.

    Args:
        kind: what is registered, for messages: ``block``, ``attention``, ``resampler``.
        base: the class that every registered configuration derives from.
        leading: what a registered module's constructor takes first.
        offered: what it may take besides, if it has parameters of these names.
    """

    def __init__(
        self, kind: str, base: type[Any], leading: tuple[str, ...], offered: tuple[str, ...] = ()
    ) -> None:
        super().__init__(kind)
        self.base = base
        self._leading = leading
        self._offered = offered

    def register(self, name: str) -> Callable[[Registrable], Registrable]:
        """Return a class decorator that registers its class as ``name``.

        The class is either a configuration (a subclass of ``base`` with fields, ``build`` and
        optionally ``check`` and ``cost``), or an ``nn.Module``. A module's constructor takes the
        number of channels first (a resampler's: ``c_in, c_out``), and a block's may take its
        ``index`` in the stage, a resampler's its ``direction`` and ``factor``, by these names; all
        other arguments, with their annotations and defaults, become the options.

        Raises:
            ConfigError: the name is taken, or the class could not be built from YAML.
        """
        self.check_name(name)

        def decorate(cls: Registrable) -> Registrable:
            try:
                if not isinstance(cls, type) or not issubclass(cls, (self.base, nn.Module)):
                    shown = getattr(cls, "__qualname__", repr(cls))
                    raise ConfigError(
                        f"{shown} is neither a {self.base.__name__} nor a torch.nn.Module"
                    )
                from_module = not issubclass(cls, self.base)
                config = self._named(name, self._adapted(cls) if from_module else cls)
                self._check_methods(config)
                _check_options(config)
            except ConfigError as error:
                raise ConfigError(f"{self.kind} '{name}': {error}") from None
            self.add(name, config)
            return cls if from_module else cast("Registrable", config)  # a subclass of what came

        return decorate

    def parse(self, value: object) -> C:
        """Return the configuration that ``value`` spells.

        Args:
            value: a configuration, a registered name, or a mapping with ``type`` and options.

        Raises:
            ConfigError: the name or an option is unknown, or an option's value is refused.
        """
        if isinstance(value, self.base):
            return cast("C", value)
        if isinstance(value, str):
            value = {"type": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
            raise ConfigError(
                f"{value!r} is no {self.kind}; write a name, or a mapping with 'type' and options"
            )
        config_class = self[value["type"]]
        try:
            return config_class.model_validate(dict(value))
        except ValidationError as error:
            message = validation_message(error, config_class, value)
            raise ConfigError(f"{value['type']}: {message}") from None

    def _named(self, name: str, cls: type[Any]) -> type[C]:
        """Return ``cls`` with its ``type`` fixed to ``name``."""
        fields: dict[str, Any] = {"type": (Literal[name], name)}
        named: Any = create_model(cls.__name__, __base__=cls, __module__=cls.__module__, **fields)
        named.__qualname__ = cls.__qualname__
        named.__doc__ = cls.__doc__
        return cast("type[C]", named)

    def _check_methods(self, config: type[C]) -> None:
        """Refuse a class without ``build``, or whose methods take other arguments than ours."""
        if inspect.isabstract(config):
            raise ConfigError(f"{config.__qualname__} must implement build()")
        for method in ("build", "check", "cost"):
            wanted = list(inspect.signature(getattr(self.base, method)).parameters)
            try:
                inspect.signature(getattr(config, method)).bind(*wanted)
            except TypeError:
                raise ConfigError(
                    f"{config.__qualname__}.{method}() must take ({', '.join(wanted)})"
                ) from None

    def _adapted(self, module: type[nn.Module]) -> type[C]:
        """Return a configuration whose fields are the options of ``module``'s constructor."""
        parameters = _parameters(module)
        leading, options = parameters[: len(self._leading)], parameters[len(self._leading) :]
        if len(leading) < len(self._leading) or not all(map(_takes_channels, leading)):
            raise ConfigError(
                f"{module.__qualname__}'s constructor must take {' and '.join(self._leading)} "
                "(numbers of channels, required) before its options"
            )
        offered = {p.name: p for p in options if p.name in self._offered}
        fields: dict[str, Any] = {}
        for p in options:
            if p.name in offered:
                continue
            if p.name.startswith(("_", "model_")) or hasattr(self.base, p.name) or p.name == "type":
                raise ConfigError(
                    f"{module.__qualname__}'s argument '{p.name}' cannot be an option, since "
                    f"{self.base.__name__} uses this name; rename it"
                )
            annotation = Any if p.annotation is p.empty else p.annotation
            fields[p.name] = (annotation, ... if p.default is p.empty else p.default)

        def build(self: Any, *given: Any) -> nn.Module:
            by_name = dict(zip(wanted, given, strict=True))
            if "factor" in offered:
                by_name["factor"] = self.factor
            extras = {name: by_name[name] for name in offered}
            first = given[: len(leading)]
            return module(*first, **extras, **{name: getattr(self, name) for name in fields})

        wanted = list(inspect.signature(self.base.build).parameters)[1:]
        members: dict[str, Any] = {"build": build, "__module__": module.__module__}
        if "factor" in offered and isinstance(offered["factor"].default, int):
            factor = offered["factor"].default
            members["factor"] = property(lambda _: factor)
        base = type(f"{module.__name__}Config", (self.base,), members)
        try:
            config: Any = create_model(
                base.__name__, __base__=base, __module__=base.__module__, **fields
            )
        except (PydanticUserError, TypeError, NameError) as error:
            raise ConfigError(
                f"{module.__qualname__}'s options cannot be read from YAML: {_first_line(error)}"
            ) from None
        config.__doc__ = module.__doc__
        return cast("type[C]", config)


def _parameters(module: type[nn.Module]) -> list[inspect.Parameter]:
    """Return the constructor's parameters, all of which can be given by position or name."""
    try:
        parameters = list(inspect.signature(module, eval_str=True).parameters.values())
    except (NameError, TypeError, ValueError) as error:
        raise ConfigError(
            f"the signature of {module.__qualname__}'s constructor cannot be read: {error}"
        ) from None
    hidden = [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if hidden:
        raise ConfigError(
            f"{module.__qualname__}'s constructor takes {hidden[0]}; name its arguments, "
            "so that they can be options"
        )
    unnamed = [p.name for p in parameters[1:] if p.kind is p.POSITIONAL_ONLY]
    if unnamed:
        raise ConfigError(
            f"{module.__qualname__}'s argument '{unnamed[0]}' is positional-only; "
            "an option is passed by name"
        )
    return parameters


def _takes_channels(parameter: inspect.Parameter) -> bool:
    """Say whether a constructor's parameter may be a number of channels."""
    return (
        parameter.kind is not parameter.KEYWORD_ONLY
        and parameter.annotation in (int, parameter.empty, Any)
        and (parameter.default is parameter.empty or parameter.name in _WIDTHS)
    )


def _check_options(config: type[LayerConfig]) -> None:
    """Refuse options that YAML cannot hold, and defaults that are not valid."""
    where = f"{config.__qualname__}'s options"
    try:
        with warnings.catch_warnings(action="ignore", category=PydanticJsonSchemaWarning):
            config.model_json_schema()
        if all(not field.is_required() for field in config.model_fields.values()):
            config.model_validate({}).model_dump(mode="json")
    except ValidationError as error:
        message = validation_message(error, config)
        raise ConfigError(f"{where} have a default that is not valid: {message}") from None
    except (PydanticUserError, PydanticSerializationError) as error:
        raise ConfigError(f"{where} cannot be written to YAML: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


BLOCKS: LayerRegistry[BlockConfig] = LayerRegistry("block", BlockConfig, ("channels",), ("index",))
ATTENTIONS: LayerRegistry[AttentionConfig] = LayerRegistry(
    "attention", AttentionConfig, ("channels",)
)
RESAMPLERS: LayerRegistry[ResamplerConfig] = LayerRegistry(
    "resampler", ResamplerConfig, ("c_in", "c_out"), ("direction", "factor")
)

register_block = BLOCKS.register
register_attention = ATTENTIONS.register
register_resampler = RESAMPLERS.register

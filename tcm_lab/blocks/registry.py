"""Names for layers: a block, attention module or resampler registered here is usable from YAML.

A codec consists of three kinds of layer, each with a registry of its own:

* a **block** keeps its channels and its size, and is stacked ``depth`` times in a stage;
* an **attention** module keeps both too, and occurs once: in the entropy model or after a stage;
* a **resampler** changes the channels and, usually, the size.
"""

from __future__ import annotations

import inspect
import json
import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, cast

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)
from pydantic.errors import PydanticUserError
from pydantic.json_schema import PydanticJsonSchemaWarning
from pydantic_core import PydanticSerializationError
from torch import nn

from tcm_lab._utils import ConfigRegistry, Frozen, named_config
from tcm_lab.blocks.cost import Cost
from tcm_lab.errors import ConfigError, first_line, validation_message

ResampleDirection = Literal["down", "up"]
#: Names of the numbers of channels in ``build()``.
_CHANNELS = ("channels", "c_in", "c_out")
#: Names under which a module's number of channels may have a default.
_WIDTHS = (*_CHANNELS, "in_channels", "out_channels", "dim", "width")


#: Serialisation context in which a configuration contains only what identifies it.
FINGERPRINT = "fingerprint"


class NoFormula(LookupError):
    """A layer without a closed formula for its cost; a counter must run it instead."""


class LayerConfig(Frozen):
    """Typed, frozen, validated options of a registered layer; ``type`` is its registered name.

    ``later`` names options that a layer got after codecs with it had been trained. Their defaults
    compute what the layer did before, and fingerprints leave them out at their defaults, so that
    records of these codecs stay valid. Options named in ``shared`` may differ between codecs that
    share one set of weights.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    type: str
    later: ClassVar[tuple[str, ...]] = ()
    shared: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _as_fingerprinted(
        self, write: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        tree: dict[str, Any] = write(self)
        for name in type(self).model_fields:
            own, written = getattr(self, name), tree.get(name)
            if isinstance(own, set | frozenset) and isinstance(written, list):
                written.sort(key=json.dumps)  # the order of a set differs between processes
        if info.context == FINGERPRINT:
            for name in self.later:
                if getattr(self, name) == type(self).model_fields[name].default:
                    tree.pop(name, None)
        return tree


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
            NoFormula: the layer has no closed formula.
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
        """Factor by which the output's sides are smaller (``down``) or larger (``up``)."""
        return 2

    def size_after(self, direction: ResampleDirection, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) of the output on an input of ``height`` x ``width``."""
        if direction == "up":
            return height * self.factor, width * self.factor
        return -(-height // self.factor), -(-width // self.factor)

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
            NoFormula: the resampler has no closed formula.
        """
        raise NoFormula(f"the resampler '{self.type}' has no closed formula for its cost")


C = TypeVar("C", bound=LayerConfig)
Registrable = TypeVar("Registrable", bound=type)


class LayerRegistry(ConfigRegistry[C], Generic[C]):
    """Configuration classes of layers by registered name, all of them derived from ``base``."""

    #: The registries themselves, by kind.
    every: ClassVar[dict[str, LayerRegistry[Any]]] = {}

    def __init__(self, kind: str, base: type[Any]) -> None:
        super().__init__(kind, base)
        self.every[kind] = self

    def register(self, name: str) -> Callable[[Registrable], Registrable]:
        """Return a class decorator that registers its class as ``name``.

        The class is either a configuration (a subclass of ``base`` with fields, ``build`` and
        optionally ``check`` and ``cost``), or an ``nn.Module``. A module's constructor takes the
        number of channels first (a resampler's: ``c_in, c_out``). A block's may also take its
        ``index`` in the stage, a resampler's its ``direction`` and ``factor``, by these names. All
        other arguments, with their annotations and defaults, become options. A static method
        ``cost`` gives the closed formula: it takes the arguments of `base.cost`, then the options.

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
                base, options = self._adapted(cls) if from_module else (cls, {})
                config = named_config(name, base, options)
                self._check_methods(config)
                _check_options(config)
            except ConfigError as error:
                raise ConfigError(f"{self.kind} '{name}': {error}") from None
            self.add(name, config)
            return cls if from_module else cast("Registrable", config)  # a subclass of ``cls``

        return decorate

    def _check_methods(self, config: type[C]) -> None:
        """Refuse a class without ``build``, or with methods whose arguments differ from ours."""
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

    def _adapted(self, module: type[nn.Module]) -> tuple[type[Any], dict[str, Any]]:
        """Return a configuration class that builds ``module``, and its options as fields."""
        arguments = list(inspect.signature(self.base.build).parameters)[1:]
        leading = [name for name in arguments if name in _CHANNELS]
        may_take = {*arguments, "factor"} if hasattr(self.base, "factor") else {*arguments}
        offered: dict[str, inspect.Parameter] = {}
        fields: dict[str, Any] = {}
        for p in _options(module, leading):
            if p.name in may_take:
                offered[p.name] = p
                continue
            is_reserved = hasattr(self.base, p.name) or p.name in self.base.model_fields
            if is_reserved or p.name.startswith(("_", "model_")):
                raise ConfigError(
                    f"{module.__qualname__}'s argument '{p.name}' cannot be an option, since "
                    f"{self.base.__name__} uses this name; rename it"
                )
            annotation = Any if p.annotation is p.empty else p.annotation
            fields[p.name] = (annotation, ... if p.default is p.empty else p.default)

        def build(self: Any, *values: Any) -> nn.Module:
            by_name = dict(zip(arguments, values, strict=True))
            if "factor" in offered:
                by_name["factor"] = self.factor
            options = {name: getattr(self, name) for name in fields}
            options |= {name: by_name[name] for name in offered}
            return module(*values[: len(leading)], **options)

        def reduce(self: Any) -> tuple[Any, ...]:
            # No module has this class under its name. The layer's own class is pickled first, so
            # that the module that registers it is imported.
            return _unpickled, (module, kind, self.model_dump(mode="json"))

        kind = self.kind
        members = {
            "build": build,
            "__module__": module.__module__,
            "__doc__": module.__doc__,
            "__reduce__": reduce,
        }
        if "factor" in offered and isinstance(offered["factor"].default, int):
            factor = offered["factor"].default
            if factor < 1:
                raise ConfigError(f"{module.__qualname__}'s factor = {factor} must be at least 1")
            members["factor"] = property(lambda _: factor)
        if isinstance(inspect.getattr_static(module, "cost", None), staticmethod):
            members["cost"] = self._formula(module, list(fields))
        return type(f"{module.__name__}Config", (self.base,), members), fields

    def _formula(self, module: Any, options: Sequence[str]) -> Callable[..., Cost]:
        """Return the method ``cost`` of a configuration from the static one of ``module``."""
        shape = list(inspect.signature(self.base.cost).parameters)[1:]
        try:
            inspect.signature(module.cost).bind(*shape, **dict.fromkeys(options))
        except TypeError:
            raise ConfigError(
                f"{module.__qualname__}.cost() must take ({', '.join([*shape, *options])})"
            ) from None

        def cost(self: Any, *values: Any) -> Cost:
            result: Cost = module.cost(*values, **{name: getattr(self, name) for name in options})
            return result

        return cost


def _unpickled(_: type[nn.Module], kind: str, tree: dict[str, Any]) -> LayerConfig:
    """Return the configuration of a registered module."""
    config: LayerConfig = LayerRegistry.every[kind].parse(tree)
    return config


def _options(module: type[nn.Module], leading: Sequence[str]) -> list[inspect.Parameter]:
    """Return the constructor's parameters after ``leading``, all of which can be passed by name."""
    try:
        parameters = list(inspect.signature(module, eval_str=True).parameters.values())
    except (NameError, TypeError, ValueError) as error:
        raise ConfigError(
            f"the signature of {module.__qualname__}'s constructor cannot be read: {error}"
        ) from None
    for p in parameters:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise ConfigError(
                f"{module.__qualname__}'s constructor takes {p}; name its arguments, "
                "so that they can be options"
            )
        if p.kind is p.POSITIONAL_ONLY and p is not parameters[0]:
            raise ConfigError(
                f"{module.__qualname__}'s argument '{p.name}' is positional-only; "
                "an option is passed by name"
            )
    widths, options = parameters[: len(leading)], parameters[len(leading) :]
    if len(widths) < len(leading) or not all(map(_takes_channels, widths)):
        raise ConfigError(
            f"{module.__qualname__}'s constructor must take {' and '.join(leading)} "
            "(numbers of channels, required) before its options"
        )
    return options


def _takes_channels(parameter: inspect.Parameter) -> bool:
    """Return whether a constructor's parameter may be a number of channels."""
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
        raise ConfigError(f"{where} cannot be written to YAML: {first_line(error)}") from None


BLOCKS: LayerRegistry[BlockConfig] = LayerRegistry("block", BlockConfig)
ATTENTIONS: LayerRegistry[AttentionConfig] = LayerRegistry("attention", AttentionConfig)
RESAMPLERS: LayerRegistry[ResamplerConfig] = LayerRegistry("resampler", ResamplerConfig)

AnyBlock = Annotated[
    SerializeAsAny[BlockConfig], BeforeValidator(BLOCKS.parse), Field(description="a block")
]
AnyAttention = Annotated[
    SerializeAsAny[AttentionConfig],
    BeforeValidator(ATTENTIONS.parse),
    Field(description="an attention module"),
]
AnyResampler = Annotated[
    SerializeAsAny[ResamplerConfig],
    BeforeValidator(RESAMPLERS.parse),
    Field(description="a resampler"),
]

register_block = BLOCKS.register
register_attention = ATTENTIONS.register
register_resampler = RESAMPLERS.register

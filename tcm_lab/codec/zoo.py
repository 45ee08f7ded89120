"""Codecs by name or file: presets, YAML files, CompressAI's models, and a user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tcm_lab._compat.torchvision import import_compressai
from tcm_lab._utils import Frozen
from tcm_lab._utils.files import is_file
from tcm_lab._utils.plugins import import_source
from tcm_lab._utils.yaml import read_yaml
from tcm_lab.codec.config import VariantConfig
from tcm_lab.codec.names import (
    COMPRESSAI,
    REFERENCE_MODELS,
    about_code,
    is_foreign,
    is_own,
    is_reference,
    preset_names,
    preset_tree,
)
from tcm_lab.codec.seeds import random_state
from tcm_lab.errors import ConfigError, brief, near

_DEFAULT_QUALITY = 4


class _DerivedConfig(Frozen):
    """The content of a file that changes another configuration."""

    base: str
    name: str | None = None
    override: dict[str, Any] | None = None


def load_config(source: str | Path | VariantConfig) -> VariantConfig:
    """Return the configuration of a preset or of a YAML file.

    A file holds either the whole tree, or ``base`` (a preset's name, or a path relative to the
    file), ``name`` and ``override`` (dotted paths).

    Raises:
        ConfigError: ``source`` is neither a preset nor a file, or the file is not a valid
            configuration. The message names the file, the field and the fix.
    """
    if isinstance(source, VariantConfig):
        return source
    if not isinstance(source, str | Path):
        hint = f"; give {source.__name__}(), not the class" if isinstance(source, type) else ""
        raise ConfigError(f"{brief(repr(source))} is neither a model's name nor a file{hint}")
    return _load(source, ())


def _load(source: str | Path, above: tuple[Path, ...]) -> VariantConfig:
    """Load a name or file; ``above`` are the files whose ``base`` led here."""
    if str(source) in preset_names():
        return _preset(str(source))
    path = Path(source)
    if not is_file(path):
        if is_foreign(str(source)):
            whose = "CompressAI's own model" if is_reference(str(source)) else "a codec of your own"
            raise ConfigError(
                f"'{source}' is {whose}, which has no configuration here; "
                "tcm_lab.build() and the tables accept this name"
            )
        looks_like_a_file = bool(path.suffix) or len(path.parts) > 1
        what = "no such file" if looks_like_a_file else "neither a preset nor a YAML file"
        raise ConfigError(f"'{source}': {what}.{near(str(source), preset_names())}")
    if path.suffix == ".py":
        raise ConfigError(about_code(path))
    resolved = path.resolve()
    if resolved in above:
        chain = " -> ".join(file.name for file in (*above, resolved))
        raise ConfigError(f"the files are each other's base: {chain}; make one of them complete")
    return _configuration(read_yaml(path), str(path), path.parent, (*above, resolved))


@lru_cache(maxsize=64)
def _preset(name: str) -> VariantConfig:
    return _configuration(preset_tree(name), f"preset {name}", None, ())


def _configuration(
    tree: Mapping[str, Any], origin: str, folder: Path | None, above: tuple[Path, ...]
) -> VariantConfig:
    try:
        if "base" not in tree:
            return VariantConfig.parse(tree)
        derived = _DerivedConfig.parse(tree)
        base: str | Path = derived.base
        if folder is not None and base not in preset_names():
            base = folder / base
        named = {} if derived.name is None else {"name": derived.name}
        return _load(base, above).override({**(derived.override or {}), **named})
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None


def build(
    model: str | Path | VariantConfig,
    overrides: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
) -> Any:
    """Build a codec from a preset's name, a YAML file or a configuration.

    Args:
        model: the codec; ``compressai/<name>`` builds CompressAI's own model, unchanged, and
            ``my_codec.py:factory`` or ``my_package.module:factory`` a user's own codec.
        overrides: dotted fields to change; for CompressAI's models, only ``quality``; for a user's
            own codec, arguments of the factory.
        seed: seed of the initial weights; the caller's random state is left as it was.
        device: device of the weights; on ``meta`` they have shapes and no values.

    Returns:
        A `Codec`, CompressAI's model, or the factory's result.

    Raises:
        ConfigError: the configuration is not valid.
    """
    with random_state(seed):
        if device != "meta":
            return _assemble(model, overrides).to(device)
        return build_on_meta(lambda: _assemble(model, overrides))


def _assemble(model: str | Path | VariantConfig, overrides: Mapping[str, Any] | None) -> Any:
    if isinstance(model, str) and is_own(model):
        return _build_own(model, overrides or {})
    if isinstance(model, str) and is_reference(model):
        options = {**(overrides or {})}
        quality = options.pop("quality", None)
        if options:
            field = next(iter(options))
            raise ConfigError(f"'{model}' is CompressAI's: only quality can be set, not '{field}'")
        return build_reference_model(model, quality=quality)
    from tcm_lab.codec.model import Codec  # imports CompressAI, not needed by configurations

    return Codec(load_config(model).override(overrides or {}))


def _build_own(name: str, options: Mapping[str, Any]) -> nn.Module:
    """Call the factory (a function, or the class itself) that ``name`` refers to.

    Its codec is any ``nn.Module`` with CompressAI's interface: ``forward(x)`` returns ``x_hat`` and
    ``likelihoods``; ``compress(x)`` returns the arguments of ``decompress``, ``strings`` among
    them, and may return more.

    Args:
        name: a ``.py`` file or a dotted module, a colon, and the factory.
        options: arguments of the factory by name.

    Returns:
        The codec. Its attribute ``name``, by default that of the factory, is its name in tables.

    Raises:
        LabError: there is no such module or factory, it takes other arguments, or it returns
            something other than a module.
    """
    import_compressai()  # with our workaround, which the user's own import of it may lack
    factory = own_factory(name)
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        given = ", ".join(options) or "no arguments"
        raise ConfigError(
            f"'{name}' is called with {given}: {error}. Set its arguments by --set "
            f"NAME=VALUE; it takes {inspect.signature(factory)}."
        ) from None
    codec = factory(**options)
    if not isinstance(codec, nn.Module):
        raise ConfigError(
            f"'{name}' returns {type(codec).__name__}, which is not a torch.nn.Module. Name a "
            "function that returns a codec, or its class."
        )
    if not isinstance(getattr(codec, "name", None), str):
        words = [name.rpartition(":")[2], *(f"{key}={value}" for key, value in options.items())]
        codec.name = " ".join(words)  # type: ignore[assignment]  # a string, not a submodule
    return codec


def own_factory(name: str) -> Callable[..., Any]:
    """Return the function or class that ``my_codec.py:factory`` refers to.

    Raises:
        LabError: there is no such file, or nothing of that name in it.
    """
    source, _, attribute = name.rpartition(":")
    module = import_source(source)
    factory = getattr(module, attribute, None)
    if factory is None:
        public = [each for each in vars(module) if not each.startswith("_")]
        raise ConfigError(f"'{name}': {source} has no '{attribute}'.{near(attribute, public)}")
    if not callable(factory):
        raise ConfigError(f"'{name}': {attribute} is neither a function nor a class")
    result: Callable[..., Any] = factory
    return result


def build_on_meta(assemble: Callable[[], nn.Module]) -> nn.Module:
    """Return the result of ``assemble`` on torch's meta device, if possible built only there.

    `torch.device("meta")` alone misses ``torch.Tensor([...])``, which CompressAI's GDN and entropy
    models make on the CPU and then combine with others; these move to the meta device.
    """
    import_compressai()  # the import makes tensors, which must have data
    try:
        with torch.device("meta"), _MixedOnMeta():
            model = assemble()
    except (NotImplementedError, RuntimeError):
        # A user's layer that reads a tensor while it is built needs one with data.
        model = assemble()
    return model.to("meta")


class _MixedOnMeta(TorchFunctionMode):
    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        on_meta = [arg.is_meta for arg in args if isinstance(arg, Tensor)]
        if any(on_meta) and not all(on_meta):
            args = [arg.to("meta") if isinstance(arg, Tensor) else arg for arg in args]
        return function(*args, **(kwargs or {}))


def build_reference_model(name: str, *, quality: int | None = None) -> Any:
    """Build CompressAI's model ``compressai/<name>``, or ``<name>``, with random weights.

    CompressAI's quality setting chooses the widths; it is 4 by default. Models that CompressAI
    registers without a zoo entry have one width.

    Raises:
        ConfigError: there is no such model or quality, or the model has no quality setting.
    """
    short = name.removeprefix(COMPRESSAI)
    if short not in REFERENCE_MODELS:
        raise ConfigError(f"CompressAI has no model '{short}'.{near(short, REFERENCE_MODELS)}")
    compressai = import_compressai()
    if short in compressai.zoo.image_models:
        quality = _DEFAULT_QUALITY if quality is None else quality
        if type(quality) is not int:  # a value from YAML, which may also be true
            raise ConfigError(f"{COMPRESSAI}{short}: quality = {quality}: must be an integer")
        try:
            return compressai.zoo.image_models[short](quality=quality, pretrained=False)
        except ValueError as error:
            raise ConfigError(f"{COMPRESSAI}{short}: quality = {quality}: {error}") from None
    if quality is not None:
        raise ConfigError(f"{COMPRESSAI}{short} has no quality setting; leave quality out")
    return compressai.registry.MODELS[short]()

"""Codecs of a user's own by name: ``my_codec.py:factory`` or ``my_package.module:factory``.

Such a codec is any ``nn.Module`` with CompressAI's interface: ``forward(x)`` returns ``x_hat`` and
``likelihoods``; ``compress(x)`` returns what ``decompress`` takes, its ``strings`` among it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from tcm_lab._compat.torchvision import import_compressai
from tcm_lab._utils.plugins import import_source
from tcm_lab.errors import ConfigError, near


def build_own(name: str, options: Mapping[str, Any]) -> nn.Module:
    """Call the factory (a function, or the class itself) that ``name`` means.

    Args:
        name: a ``.py`` file or a dotted module, a colon, and the factory.
        options: arguments of the factory by name.

    Returns:
        The codec. Tables call it by its attribute ``name``, by default that of the factory.

    Raises:
        LabError: there is no such module or factory, it takes other arguments, or it returns
            something else than a module.
    """
    import_compressai()  # as the user's module will, which may lack what that import works around
    factory = _factory(name)
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        given = ", ".join(options) or "no arguments"
        raise ConfigError(
            f"'{name}' is called with {given}: {error}. Its arguments can be set by --set "
            f"NAME=VALUE; it takes {inspect.signature(factory)}."
        ) from None
    codec = factory(**options)
    if not isinstance(codec, nn.Module):
        raise ConfigError(
            f"'{name}' returns {type(codec).__name__}, which is no torch.nn.Module. Name a "
            "function that returns a codec, or its class."
        )
    if not isinstance(getattr(codec, "name", None), str):
        words = [name.rpartition(":")[2], *(f"{key}={value}" for key, value in options.items())]
        codec.name = " ".join(words)  # type: ignore[assignment]  # a string beside the submodules
    return codec


def _factory(name: str) -> Callable[..., Any]:
    source, _, attribute = name.rpartition(":")
    module = import_source(source)
    factory = getattr(module, attribute, None)
    if factory is None:
        public = [each for each in vars(module) if not each.startswith("_")]
        raise ConfigError(f"'{name}': {source} has no '{attribute}'.{near(attribute, public)}")
    if not callable(factory):
        raise ConfigError(f"'{name}': {attribute} is no function or class")
    found: Callable[..., Any] = factory
    return found

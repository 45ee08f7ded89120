"""CompressAI's own models by ``compressai/<name>``, untouched, so that tables can hold them too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tcm_lab._foundation import ConfigError, near
from tcm_lab.blocks.layers import compressai

PREFIX = "compressai/"
_DEFAULT_QUALITY = 4


def image_models() -> dict[str, Callable[..., Any]]:
    """Return CompressAI's image models by CompressAI's names."""
    return {
        name: entry
        for name, entry in compressai().zoo.image_models.items()
        if not name.endswith("-vbr")
    }


def build_peer(name: str, *, quality: int = _DEFAULT_QUALITY) -> Any:
    """Build CompressAI's model ``compressai/<name>`` with random weights.

    Args:
        name: with or without the prefix.
        quality: CompressAI's quality setting, which chooses the widths.

    Raises:
        ConfigError: there is no such model or quality.
    """
    models = image_models()
    short = name.removeprefix(PREFIX)
    if short not in models:
        raise ConfigError(f"CompressAI has no model '{short}'.{near(short, models)}")
    try:
        return models[short](quality=quality, pretrained=False)
    except ValueError as error:
        raise ConfigError(f"{PREFIX}{short}: quality = {quality}: {error}") from None

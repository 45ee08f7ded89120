"""CompressAI's own models by ``compressai/<name>``, untouched, so that tables can hold them too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tcm_lab._compat.torchvision import import_compressai
from tcm_lab.errors import ConfigError, near

PREFIX = "compressai/"
_DEFAULT_QUALITY = 4
#: Image models of CompressAI 1.2, by its own names: listing them must not import it.
REFERENCE_MODELS = (
    "bmshj2018-factorized",
    "bmshj2018-factorized-relu",
    "bmshj2018-hyperprior",
    "cheng2020-anchor",
    "cheng2020-anchor-checkerboard",
    "cheng2020-attn",
    "elic2022-chandelier",
    "elic2022-official",
    "mbt2018",
    "mbt2018-mean",
)
#: Image models that CompressAI registers without a zoo entry: one width, no quality setting.
_WITHOUT_QUALITY = ("cheng2020-anchor-checkerboard", "elic2022-chandelier", "elic2022-official")


def image_models() -> dict[str, Callable[..., Any]]:
    """Return CompressAI's image models by CompressAI's names."""
    zoo = import_compressai().zoo.image_models
    models = {name: entry for name, entry in zoo.items() if not name.endswith("-vbr")}
    return {
        **models,
        **{name: import_compressai().registry.MODELS[name] for name in _WITHOUT_QUALITY},
    }


def build_reference_model(name: str, *, quality: int | None = None) -> Any:
    """Build CompressAI's model ``compressai/<name>`` with random weights.

    Args:
        name: with or without the prefix.
        quality: CompressAI's quality setting, which chooses the widths; 4 if not given.

    Raises:
        ConfigError: there is no such model or quality, or the model has no quality setting.
    """
    models = image_models()
    short = name.removeprefix(PREFIX)
    if short not in models:
        raise ConfigError(f"CompressAI has no model '{short}'.{near(short, models)}")
    if short in _WITHOUT_QUALITY:
        if quality is not None:
            raise ConfigError(f"{PREFIX}{short} has no quality setting; leave quality out")
        return models[short]()
    quality = _DEFAULT_QUALITY if quality is None else quality
    try:
        return models[short](quality=quality, pretrained=False)
    except ValueError as error:
        raise ConfigError(f"{PREFIX}{short}: quality = {quality}: {error}") from None

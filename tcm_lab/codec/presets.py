"""Configurations by name or file, and the codecs that they name: ours, and CompressAI's own."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from tcm_lab.codec.config import VariantConfig
from tcm_lab.codec.reference_models import REFERENCE_MODELS, build_reference_model
from tcm_lab.errors import ConfigError, near

_SUFFIX = ".yaml"


@lru_cache(maxsize=1)
def preset_names() -> tuple[str, ...]:
    """Return the names of the packaged presets, sorted."""
    folder = resources.files("tcm_lab") / "configs" / "presets"
    return tuple(
        sorted(f.name.removesuffix(_SUFFIX) for f in folder.iterdir() if f.name.endswith(_SUFFIX))
    )


def load_config(source: str | Path | VariantConfig) -> VariantConfig:
    """Return the configuration of a preset's name or of a YAML file.

    A file holds either the whole tree, or ``base`` (a preset's name, or a file beside this one),
    ``name`` and ``override`` (dotted paths).

    Raises:
        ConfigError: neither a preset nor a file; or the file is no valid configuration. The
            message names the file, the field and the fix.
    """
    if isinstance(source, VariantConfig):
        return source
    if str(source) in preset_names():
        return _preset(str(source))
    path = Path(source)
    if not path.is_file():
        if str(source).startswith("compressai/"):
            raise ConfigError(
                f"'{source}' is CompressAI's own model, which has no configuration of ours; "
                "tcm_lab.build() and the tables take it by this name"
            )
        looks_like_a_file = path.suffix in (".yaml", ".yml")
        what = "no such file" if looks_like_a_file else "neither a preset nor a YAML file"
        raise ConfigError(f"'{source}': {what}.{near(str(source), preset_names())}")
    return _read(path.read_text(encoding="utf-8"), str(path), path.parent)


@lru_cache(maxsize=64)
def _preset(name: str) -> VariantConfig:
    file = resources.files("tcm_lab") / "configs" / "presets" / f"{name}{_SUFFIX}"
    return _read(file.read_text(encoding="utf-8"), f"preset {name}", None)


def _read(text: str, origin: str, folder: Path | None) -> VariantConfig:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{origin}: holds {type(tree).__name__}, not a mapping of fields")
    try:
        if "base" not in tree:
            return VariantConfig.parse(tree)
        unknown = set(tree) - {"base", "name", "override"}
        if unknown:
            field = sorted(map(str, unknown))[0]
            raise ConfigError(
                f"unknown field '{field}'. A file with 'base' has 'name' and 'override' beside it"
            )
        base: str | Path = str(tree["base"])
        if folder is not None and base not in preset_names():
            base = folder / base
        changes = {**(tree.get("override") or {})}
        if "name" in tree:
            changes["name"] = tree["name"]
        return load_config(base).override(changes)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of presets and of CompressAI's image models that match ``pattern``."""
    names = [*preset_names(), *(f"compressai/{name}" for name in REFERENCE_MODELS)]
    return [name for name in names if fnmatchcase(name, pattern)]


def build(
    model: str | Path | VariantConfig,
    overrides: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
) -> Any:
    """Build a codec from a preset's name, a YAML file or a configuration.

    Args:
        model: what to build; ``compressai/<name>`` builds CompressAI's own model, untouched.
        overrides: dotted fields to change; for CompressAI's models, ``quality`` alone.
        seed: of the initial weights; the caller's random state is left as it was.
        device: where the weights live; on ``meta`` they have shapes and no values.

    Returns:
        A `Codec`, or CompressAI's model.

    Raises:
        ConfigError: the configuration is not valid.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if device != "meta":
            return _assemble(model, overrides).to(device)
        from tcm_lab.codec.meta import build_on_meta

        return build_on_meta(lambda: _assemble(model, overrides))


def _assemble(model: str | Path | VariantConfig, overrides: Mapping[str, Any] | None) -> Any:
    if isinstance(model, str) and model.startswith("compressai/"):
        options = {**(overrides or {})}
        quality = options.pop("quality", None)
        if options:
            field = next(iter(options))
            raise ConfigError(f"'{model}' is CompressAI's: quality is free, '{field}' is not")
        return build_reference_model(model, quality=quality)
    from tcm_lab.codec.model import Codec

    return Codec(load_config(model).override(overrides or {}))

"""The names of models: packaged presets and weights, and CompressAI's. Listing imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from tcm_lab._utils.files import is_file
from tcm_lab._utils.yaml import read_yaml

PRESETS = resources.files("tcm_lab") / "configs" / "presets"
WEIGHTS = Path(str(resources.files("tcm_lab"))) / "weights"
"""One folder per trained codec of the package: its weights, its records and its card."""
COMPRESSAI = "compressai/"
"""Prefix of the names of CompressAI's models."""
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
"""Image models of CompressAI 1.2, by its own names."""


_OWN = re.compile(r"(.+\.py|[A-Za-z_]\w*(\.\w+)*):[A-Za-z_]\w*")


def is_own(name: str) -> bool:
    """Return whether a name refers to a user's own codec, such as ``my_codec.py:factory``."""
    return _OWN.fullmatch(name) is not None


def is_reference(name: str) -> bool:
    """Return whether a name refers to a model of CompressAI."""
    return name.startswith(COMPRESSAI)


def about_code(path: Path) -> str:
    """Return the message for a Python file given as a configuration or a checkpoint."""
    return f"{path}: is code; name the class or function in it that makes the codec, {path}:NAME"


def is_foreign(name: str) -> bool:
    """Return whether a name refers to a codec not assembled here: a user's or CompressAI's."""
    return is_own(name) or is_reference(name)


@cache
def preset_names() -> tuple[str, ...]:
    """Return the names of the packaged presets, sorted."""
    files = (file.name for file in PRESETS.iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml")))


@cache
def preset_tree(name: str) -> Mapping[str, Any]:
    """Return the content of a packaged preset's YAML file."""
    return read_yaml(PRESETS / f"{name}.yaml", f"preset {name}")


@cache
def trained_names() -> tuple[str, ...]:
    """Return the names of the trained codecs whose weights are in the package, sorted."""
    return tuple(sorted(path.parent.name for path in WEIGHTS.glob("*/model.safetensors")))


def checkpoint_file(source: str | Path) -> Path:
    """Return the file of a checkpoint, given by its path or as a trained codec of the package.

    A file of that name in the working directory takes precedence.
    """
    if str(source) in trained_names() and not is_file(source):
        return WEIGHTS / str(source) / "model.safetensors"
    return Path(source)


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of presets and of CompressAI's image models that match ``pattern``."""
    names = [*preset_names(), *(f"{COMPRESSAI}{name}" for name in REFERENCE_MODELS)]
    return matching(names, pattern)


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """Return the names that match ``pattern``, which is case-sensitive on every system."""
    return [name for name in names if fnmatchcase(name, pattern)]

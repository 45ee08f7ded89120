"""What several commands share: how options are spelled, read, and what is printed."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from tcm_lab._utils.files import write_atomically
from tcm_lab.errors import LabError

if TYPE_CHECKING:
    from tcm_lab.codec import VariantConfig
    from tcm_lab.reporting import Table

Form = Literal["markdown", "latex", "csv", "json", "html"]
Convention = Literal["all", "no-attention-products", "conv-linear-only"]
Detail = Literal["totals", "parts", "kinds"]
Models = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL ...")]
Model = Annotated[str, tyro.conf.Positional]
File = Annotated[Path, tyro.conf.Positional]
Files = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE ...")]
Overrides = Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="PATH=VALUE ...")]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def changed(model: str, overrides: Sequence[str]) -> str | VariantConfig:
    """Return the model with ``path=value`` fields changed, and these in its name.

    Raises:
        LabError: a field is not spelled so, or the model has no fields of ours.
    """
    if not overrides:
        return model
    import yaml

    from tcm_lab.codec import load_config

    changes = {}
    for override in overrides:
        path, equals, value = override.partition("=")
        if not equals or not path:
            raise LabError(f"--set {override}: write PATH=VALUE, such as 'g_*.split=0.25'.")
        try:
            changes[path] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise LabError(f"--set {override}: {value!r} is no value.") from None
    config = load_config(model)
    shown = [re.sub(r"[^A-Za-z0-9._/@=,+*?-]", "", override) for override in overrides]
    name = " ".join([config.name, *shown])
    return config.override({**changes, "name": name})


def size(text: str) -> tuple[int, int]:
    """Read ``HxW``.

    Raises:
        LabError: it is spelled otherwise.
    """
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text.strip(), re.IGNORECASE)
    if found is None:
        raise LabError(f"--size {text}: write height x width in pixels, such as 512x768.")
    return int(found[1]), int(found[2])


def need_some(names: Sequence[object], what: str) -> None:
    """Refuse an empty list of positional arguments.

    Raises:
        LabError: it is empty.
    """
    if not names:
        raise LabError(f"{what}: name at least one.")


def print_or_write(text: str, out: Path | None) -> None:
    """Print ``text``, or write it wholly to ``out``."""
    if out is None:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_atomically(out, text)
        print(f"{out}: written", file=sys.stderr)


def show(tables: Sequence[Table], form: Form, out: Path | None) -> None:
    """Render tables and print or write them."""
    from tcm_lab.reporting import render_all

    print_or_write(render_all(tables, form), out)

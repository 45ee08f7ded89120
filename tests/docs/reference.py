"""The reference as Markdown: every field of user files, every command, the Python interface."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any
from unittest import mock

from fields import field_table

import tcm_lab
from tcm_lab import codec
from tcm_lab.blocks import ATTENTIONS, BLOCKS, RESAMPLERS, LayerRegistry
from tcm_lab.cli import main
from tcm_lab.cli.app import COMMANDS
from tcm_lab.reporting import Table, layer_table, render
from tcm_lab.study import Space
from tcm_lab.study.axes import (
    CategoricalAxis,
    FloatAxis,
    IntegerAxis,
    OrdinalAxis,
    OverrideAxis,
)
from tcm_lab.study.estimators import ESTIMATORS
from tcm_lab.study.schema import SCHEMA_FILE
from tcm_lab.study.space import Budget
from tcm_lab.training import RECIPES, Recipe

PACKAGES = (
    "blocks",
    "codec",
    "complexity",
    "data",
    "training",
    "evaluation",
    "analysis",
    "reporting",
    "study",
)
MODULES = ("errors", "metrics", "stats", "testing")


def configuration_tables() -> dict[str, list[Table]]:
    """Return the fields of every kind of file that users write, by the name of the kind."""
    registries: tuple[LayerRegistry[Any], ...] = (
        BLOCKS, ATTENTIONS, RESAMPLERS, codec.ENTROPY_MODELS
    )  # fmt: skip
    layers = [
        field_table(registry[name], f"{registry.kind} {name}")
        for registry in registries
        for name in registry
        if len(registry[name].model_fields) > 1
    ]
    return {
        "A variant": [
            field_table(codec.VariantConfig, "VariantConfig: the whole file"),
            field_table(codec.TransformConfig, "TransformConfig: g_a, g_s, h_a and h_s"),
            field_table(codec.StageConfig, "StageConfig: one of a transform's stages"),
        ],
        "Blocks, attention modules, resamplers and entropy models": [
            layer_table(registries),
            *layers,
        ],
        "A search space": [
            field_table(Space, "Space: the whole file"),
            field_table(CategoricalAxis, "CategoricalAxis: one of axes, or a plain list"),
            field_table(OrdinalAxis, "OrdinalAxis: one of axes"),
            field_table(IntegerAxis, "IntegerAxis: one of axes"),
            field_table(FloatAxis, "FloatAxis: one of axes"),
            field_table(OverrideAxis, "OverrideAxis: one of axes"),
            field_table(Budget, "Budget: budget"),
        ],
        "Estimators: estimator of a search space": [
            field_table(kind, f"{kind.__name__}: {{type: {name}}}")
            for name, kind in ESTIMATORS.items()
            if len(kind.model_fields) > 1  # has options besides the type
        ],
        f"A training recipe ({', '.join(sorted(RECIPES))})": [field_table(Recipe, "Recipe")],
    }


def configuration_page() -> str:
    """Return the page of all fields."""
    lines = [
        "# Fields of files",
        "",
        "A variant file consists either of these fields, or of `base` (the name of a preset or "
        "another file), `name` and `override`, whose dotted paths refer to the fields: `g_a.split` "
        "means every block of g_a. Editors can complete and check a search space with its "
        f"[JSON Schema]({SCHEMA_FILE}).",
        "",
    ]
    for heading, tables in configuration_tables().items():
        lines += [f"## {heading}", ""]
        for table in tables:
            untitled = table.model_copy(update={"title": ""})
            lines += [f"### {table.title}", "", render(untitled, "markdown")]
    return "\n".join(lines)


def commands_page() -> str:
    """Return the page of all commands, with the ``--help`` output of each."""
    lines = ["# Commands", "", "The output of `tcm-lab COMMAND --help`.", ""]
    for words in leaves(COMMANDS):
        lines += [f"## tcm-lab {' '.join(words)}", "", "```text", help_of(words), "```", ""]
    return "\n".join(lines)


def leaves(level: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command."""
    for name, command in level.items():
        if isinstance(command, Mapping):
            yield from leaves(command, (*above, name))
        else:
            yield (*above, name)


def help_of(words: tuple[str, ...]) -> str:
    """Return the help of a command as plain text with 88 columns."""
    printed = io.StringIO()
    plain = {"COLUMNS": "88", "NO_COLOR": "1", "TERM": "dumb"}
    shows = contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit)
    with mock.patch.dict(os.environ, plain), shows[0], shows[1]:
        main([*words, "--help"])
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


def overview_page() -> str:
    """Return the page of the names in ``tcm_lab``, each with a link to its definition."""
    homes: dict[int, str] = {}
    for part in (*PACKAGES, *MODULES):
        module = import_module(f"tcm_lab.{part}")
        for name in public(module):
            homes.setdefault(id(getattr(module, name)), f"{module.__name__}.{name}")
    lines = ["# Python interface", "", "| tcm_lab. | description |", "|---|---|"]
    for name in public(tcm_lab):
        value = getattr(tcm_lab, name)
        if not inspect.ismodule(value):
            lines.append(f"| {{py:obj}}`{name} <{homes[id(value)]}>` | {first_line(value)} |")
    lines += ["", "| package | contents |", "|---|---|"]
    for part in (*PACKAGES, *MODULES):
        what = first_line(import_module(f"tcm_lab.{part}"))
        lines.append(f"| [tcm_lab.{part}]({part}.md) | {what} |")
    return "\n".join(lines) + "\n"


def interface_page(part: str) -> str:
    """Return the page of a package or module for autodoc: its docstring and every public name."""
    module = import_module(f"tcm_lab.{part}")
    lines = [f"# {module.__name__}", "", "```{eval-rst}", f".. automodule:: {module.__name__}", ""]
    for name in public(module):
        value = getattr(module, name)
        if inspect.isclass(value):
            kind = "exception" if issubclass(value, BaseException) else "class"
            lines += [f".. auto{kind}:: {module.__name__}.{name}", "   :members:", ""]
        elif inspect.isroutine(value):
            lines += [f".. autofunction:: {module.__name__}.{name}", ""]
        elif not inspect.ismodule(value):
            lines += [f".. py:data:: {module.__name__}.{name}", "", *data(value), ""]
    return "\n".join([*lines, "```", ""])


def data(value: object) -> list[str]:
    """Return the lines that describe a constant or a registry."""
    if isinstance(value, Mapping):
        names = ", ".join(f"``{name}``" for name in value)
        return [f"   Contains {names}."]
    if isinstance(value, str | int | float | tuple):
        return [f"   ``{value!r}``"]
    return [f"   The type ``{value}``".replace("typing.", "").replace("tcm_lab.", "") + "."]


def public(module: ModuleType) -> list[str]:
    """Return the sorted public names of a module: its exports, or the names it defines."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    return sorted(
        name
        for name, value in vars(module).items()
        if name[0] != "_" and getattr(value, "__module__", "") == module.__name__
    )


def first_line(value: object) -> str:
    """Return the first sentence of a docstring."""
    text = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")
    return text.replace("``", "`").replace("|", "\\|")


def reference_pages() -> dict[str, str]:
    """Return the text of every reference page by name."""
    interface = {part: interface_page(part) for part in (*PACKAGES, *MODULES)}
    return {
        "configuration": configuration_page(),
        "commands": commands_page(),
        "python": overview_page(),
        **interface,
    }

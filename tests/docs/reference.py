"""Writes the reference: the Python interface by pdoc, and every field of a user's files.

``nox -s docs`` runs it; a warning of pdoc ends it.
"""

from __future__ import annotations

import sys
import warnings
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

import pdoc
from fields import field_table
from torch import nn

from tcm_lab import __version__, codec
from tcm_lab._utils.files import write_atomically
from tcm_lab.blocks import ATTENTIONS, BLOCKS, RESAMPLERS, LayerRegistry
from tcm_lab.reporting import Section, Table, layer_table, render_report
from tcm_lab.study import Space, space_schema
from tcm_lab.study.axes import (
    CategoricalAxis,
    FloatAxis,
    IntegerAxis,
    OrdinalAxis,
    OverrideAxis,
)
from tcm_lab.study.space import SCHEMA_FILE, Budget
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


def configuration_tables() -> dict[str, list[Table]]:
    """Return the fields of every file that a user writes, by the name of the file's kind."""
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
        f"A training recipe ({', '.join(sorted(RECIPES))})": [field_table(Recipe, "Recipe")],
    }


def configuration_page() -> str:
    """Return the page of all fields."""
    lead = (
        "A variant is a file of these fields; or of base (a preset's name or another file), name "
        "and override, whose dotted paths name them: g_a.split means every block of g_a.",
    )
    sections = [
        Section(heading=heading, pieces=tuple(tables))
        for heading, tables in configuration_tables().items()
    ]
    return render_report(
        "tcm_lab: fields of files", lead, sections, footer=(f"tcm-lab {__version__}",)
    )


def write_interface(folder: Path) -> None:
    """Write pdoc's pages of the package and its subpackages.

    Raises:
        Warning: pdoc cannot show something.
    """
    names = ["tcm_lab", *(f"tcm_lab.{package}" for package in PACKAGES)]
    for name in names:
        module = import_module(name)
        for public in module.__all__:  # pdoc looks for lazy names in vars()
            setattr(module, public, getattr(module, public))
    nn.Module.__init__.__doc__ = ""  # pdoc would show it under each of our constructors
    pdoc.render.configure(docformat="google", footer_text=f"tcm-lab {__version__}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc("tcm_lab", output_directory=folder)


def write_reference(folder: Path) -> None:
    """Write the whole reference to ``folder``, which begins at its ``index.html``."""
    write_interface(folder)
    write_atomically(folder / "configuration.html", configuration_page())
    write_atomically(folder / SCHEMA_FILE, space_schema())
    links = {
        "configuration.html": "Fields of files: variants, blocks, search spaces, recipes",
        "tcm_lab.html": "The Python interface: the package's exports",
        **{f"tcm_lab/{package}.html": f"The public names of {package}" for package in PACKAGES},
        SCHEMA_FILE: "The JSON Schema of a search space, for editors",
    }
    items = "".join(f'<li><a href="{to}">{escape(what)}</a></li>' for to, what in links.items())
    write_atomically(
        folder / "index.html",
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>tcm_lab: reference</title>'
        '<body style="font: 16px/1.6 system-ui, sans-serif; margin: 3rem auto; max-width: 42rem">'
        f"<h1>tcm_lab {__version__}</h1><ul>{items}</ul></body></html>\n",
    )


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
    print(f"{sys.argv[1]}/index.html")

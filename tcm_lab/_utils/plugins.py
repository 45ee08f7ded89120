"""Imports of modules that register a user's own layers: files, modules, installed plugins."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from tcm_lab._utils.files import is_file
from tcm_lab.errors import LabError

ENTRY_POINTS = "tcm_lab.layers"

_imported: list[str] = []


class PluginWarning(UserWarning):
    """An installed plugin could not be imported."""


def import_layers(sources: Iterable[str | Path]) -> None:
    """Import modules that register layers, each once: ``.py`` files, or modules by dotted name.

    The folder of a file is appended to ``sys.path`` and the file is imported by its stem. Modules
    next to it can therefore be imported too, and a spawned process finds the module by that name.

    Raises:
        LabError: there is no such file or module, or another module already has the name.
    """
    for source in map(str, sources):
        _import(source, f"--import {source}")


def _import(source: str, label: str) -> None:
    _import_file(Path(source), label) if source.endswith(".py") else _import_module(source, label)
    if source not in _imported:
        _imported.append(source)


def import_source(source: str) -> ModuleType:
    """Import a ``.py`` file or a module by dotted name, also from the working directory.

    Raises:
        LabError: as ``import_layers``.
    """
    _import(source, source)
    return sys.modules[Path(source).stem if source.endswith(".py") else source]


def imported_layers() -> tuple[str, ...]:
    """Return the sources imported in this process, in order."""
    return tuple(_imported)


def import_installed_layers() -> None:
    """Load the entry points of installed packages in the group ``tcm_lab.layers``."""
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:  # a broken plugin must not make everything else unusable
            warnings.warn(
                f"plugin '{point.name}' ({point.value}) could not be imported: {error}",
                PluginWarning,
                stacklevel=2,
            )


def _import_file(path: Path, label: str) -> None:
    if not is_file(path):
        raise LabError(f"{label}: no such file")
    folder, name = str(path.resolve().parent), path.stem
    if "." in name:
        raise LabError(f"{label}: the name before .py must not contain a dot; rename the file")
    if folder not in sys.path:
        sys.path.append(folder)
    imported = getattr(importlib.import_module(name), "__file__", None)
    if imported is None or Path(imported).resolve() != path.resolve():
        raise LabError(
            f"{label}: the name '{name}' belongs to {imported or 'a built-in module'}; "
            "rename your file"
        )


def _import_module(name: str, label: str) -> None:
    unknown = LabError(
        f"{label}: no such module. Give the path of a .py file, or the dotted name of an installed "
        "module."
    )
    if not all(step.isidentifier() for step in name.split(".")):
        raise unknown
    here = str(Path.cwd())
    if not {"", here} & {*sys.path}:  # where python -m looks, and a script does not
        sys.path.append(here)
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the user's module exists, but imports a missing one
        raise unknown from None

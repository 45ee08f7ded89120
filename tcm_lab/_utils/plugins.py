"""Imports of modules that register layers of the user's own: files, modules, installed plugins."""

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

    The folder of a file joins ``sys.path`` and the file is imported by its stem. Modules beside it
    can therefore be imported too, and a spawned process finds the same module by the same name.

    Raises:
        LabError: there is no such file or module, or a different module has the name already.
    """
    for source in map(str, sources):
        _import(source, f"--import {source}")


def _import(source: str, called: str) -> None:
    _import_file(Path(source), called) if source.endswith(".py") else _import_module(source, called)
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
    """Return the sources that `import_layers` has imported in this process, in their order."""
    return tuple(_imported)


def import_installed_layers() -> None:
    """Import what installed packages declare in the entry point group ``tcm_lab.layers``."""
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:  # a broken plugin must not make everything else unusable
            warnings.warn(
                f"plugin '{point.name}' ({point.value}) could not be imported: {error}",
                PluginWarning,
                stacklevel=2,
            )


def _import_file(path: Path, called: str) -> None:
    if not is_file(path):
        raise LabError(f"{called}: no such file")
    folder, name = str(path.resolve().parent), path.stem
    if "." in name:
        raise LabError(f"{called}: a file is imported by its name, which may have no further dot")
    if folder not in sys.path:
        sys.path.append(folder)
    found = getattr(importlib.import_module(name), "__file__", None)
    if found is None or Path(found).resolve() != path.resolve():
        raise LabError(
            f"{called}: the name '{name}' belongs to {found or 'a built-in module'}; "
            "rename your file"
        )


def _import_module(name: str, called: str) -> None:
    here = str(Path.cwd())
    if not {"", here} & {*sys.path}:  # where python -m looks, and a script does not
        sys.path.append(here)
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # a module that the user's own module needs
        raise LabError(
            f"{called}: no such module. Write the path of a .py file, or the dotted name "
            "of an installed module."
        ) from None

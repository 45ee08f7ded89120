"""A study's space as its folder keeps it: read alike from wherever, also where the folder moved."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from tcm_lab._utils.files import is_file, write_atomically
from tcm_lab._utils.yaml import to_yaml
from tcm_lab.codec import load_config, preset_names
from tcm_lab.errors import ConfigError
from tcm_lab.study.folder import BASE, SPACE
from tcm_lab.study.space import Space


def stored_space(space: Space, folder: Path) -> Space:
    """Return a space whose base and imports are named as seen from a study's folder.

    A base of which the folder keeps a copy is that copy. Presets, modules by dotted name, and
    absolute paths of what lies elsewhere stay as they are.
    """
    base = space.base
    if base not in preset_names():
        base = BASE if _has_copy(base, folder) else _seen_from(folder, base)
    imports = (
        _seen_from(folder, source) if source.endswith(".py") else source for source in space.imports
    )
    return space.model_copy(update={"base": base, "imports": tuple(dict.fromkeys(imports))})


def write_space(space: Space, folder: Path) -> None:
    """Write a study's space into its folder, and beside it the base.

    Raises:
        LabError: the folder cannot be written.
    """
    keep_base(space, folder)
    write_atomically(folder / SPACE, stored_space(space, folder).to_yaml())


def keep_base(space: Space, folder: Path) -> None:
    """Write into a study's folder, whole, what a space is based on if that is a file elsewhere.

    Raises:
        LabError: the folder cannot be written.
    """
    copy = folder / BASE
    if space.base in preset_names() or copy.exists() or _is_inside(folder, space.base):
        return
    tree = load_config(space.base).model_dump(mode="json")
    write_atomically(copy, f"# The base of study {space.name}.\n{to_yaml(tree)}")


def _has_copy(base: str, folder: Path) -> bool:
    with suppress(ConfigError):  # of a file that is the user's own
        return is_file(folder / BASE) and load_config(folder / BASE) == load_config(base)
    return False


def _is_inside(folder: Path, file: str) -> bool:
    return _place(file).is_relative_to(folder.resolve())


def _seen_from(folder: Path, file: str) -> str:
    """Return a file's path from a folder; an absolute one of what lies outside as it is."""
    if not is_file(file) or (Path(file).is_absolute() and not _is_inside(folder, file)):
        return file
    try:
        return Path(os.path.relpath(_place(file), folder.resolve())).as_posix()
    except ValueError:  # it lies on another drive
        return str(_place(file))


def _place(file: str) -> Path:
    """Return where a file lies; a link is a place of its own, whose name an import goes by."""
    return Path(file).parent.resolve() / Path(file).name

"""A study's space as stored in its folder: readable from anywhere, even after the folder moves."""

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
    """Return a space whose base and imports are named relative to a study's folder.

    If the folder holds a copy of the base, the copy is named. Presets, modules by dotted name, and
    absolute paths to files outside the folder stay as they are.
    """
    base = space.base
    if base not in preset_names():
        base = BASE if _has_copy(base, folder) else _seen_from(folder, base)
    imports = (
        _seen_from(folder, source) if source.endswith(".py") else source for source in space.imports
    )
    return space.model_copy(update={"base": base, "imports": tuple(dict.fromkeys(imports))})


def write_space(space: Space, folder: Path) -> None:
    """Write a study's space into its folder, together with the base.

    Raises:
        LabError: the folder cannot be written.
    """
    keep_base(space, folder)
    write_atomically(folder / SPACE, stored_space(space, folder).to_yaml())


def keep_base(space: Space, folder: Path) -> None:
    """Copy the complete base of a space into the study's folder if it is a file elsewhere.

    Raises:
        LabError: the folder cannot be written.
    """
    copy = folder / BASE
    if space.base in preset_names() or copy.exists() or _is_inside(folder, space.base):
        return
    tree = load_config(space.base).model_dump(mode="json")
    write_atomically(copy, f"# The base of study {space.name}.\n{to_yaml(tree)}")


def _has_copy(base: str, folder: Path) -> bool:
    with suppress(ConfigError):  # the file is the user's own
        return is_file(folder / BASE) and load_config(folder / BASE) == load_config(base)
    return False


def _is_inside(folder: Path, file: str) -> bool:
    return _place(file).is_relative_to(folder.resolve())


def _seen_from(folder: Path, file: str) -> str:
    """Return a file's path relative to a folder; an absolute path to outside stays as it is."""
    if not is_file(file) or (Path(file).is_absolute() and not _is_inside(folder, file)):
        return file
    try:
        return Path(os.path.relpath(_place(file), folder.resolve())).as_posix()
    except ValueError:  # it lies on another drive
        return str(_place(file))


def _place(file: str) -> Path:
    """Return a file's path in its resolved folder; a link keeps its name, which an import uses."""
    return Path(file).parent.resolve() / Path(file).name

"""Shared parts of commands: how options are spelled and read, and how results are printed."""

from __future__ import annotations

import inspect
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_origin

import tyro

import tcm_lab
from tcm_lab._utils.files import check_suffix, is_file, is_folder, write_atomically
from tcm_lab._utils.plugins import import_layers
from tcm_lab.errors import LabError, near, one_of

_KODAK_IMAGES = 24

Name = TypeVar("Name", bound=str)
Options = TypeVar("Options")

UNSET = tyro.conf.arg(help_behavior_hint="")
"""Marks an option that is unset by default, so that help shows no default."""
AT_LEAST_ONE = {"help_behavior_hint": "(at least one)"}
"""Hint in help for an argument of several values."""
File = Annotated[Path, tyro.conf.Positional]
Files = Annotated[
    tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE ...", **AT_LEAST_ONE)
]
Folders = Annotated[
    tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER ...", **AT_LEAST_ONE)
]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff, UNSET]
_Imports = Annotated[
    tuple[str, ...],
    tyro.conf.UseAppendAction,
    tyro.conf.arg(
        name="import",
        metavar="MODULE",
        help="Module that registers layers of your own: a .py file or a dotted name.",
    ),
]


def with_imports(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Add the option ``--import`` to a command; its modules are imported before the command runs.

    Options that default to nothing are shown without a default. Empty lists are refused for
    positional arguments, and for options with a default.
    """

    def run(*args: Any, imports: tuple[str, ...] = (), **options: Any) -> int | None:
        if () in args:
            raise LabError("Name at least one MODEL, FILE or FOLDER; --help shows all arguments.")
        for name, given in options.items():
            if given == () and (usual := signature.parameters[name].default):
                raise LabError(f"--{name}: give at least one value, such as {usual[0]}.")
        import_layers(imports)
        return command(*args, **options)

    signature = inspect.signature(command, eval_str=True)
    own = [
        p.replace(annotation=Annotated[p.annotation, UNSET])
        if p.default in (None, ()) and get_origin(p.annotation) is not Annotated
        else p
        for p in signature.parameters.values()
    ]
    added = inspect.Parameter(
        "imports", inspect.Parameter.KEYWORD_ONLY, default=(), annotation=_Imports
    )
    run.__signature__ = signature.replace(parameters=[*own, added])  # type: ignore[attr-defined]  # read by tyro
    vars(run).pop("__wrapped__", None)  # where tests decorate `run`, tyro would unwrap it
    run.__name__, run.__doc__ = command.__name__, _flowing(command.__doc__)
    run.__annotations__ = {p.name: p.annotation for p in (*own, added)} | {"return": int | None}
    return run


def flowing(kind: type[Options]) -> type[Options]:
    """Join the lines of each description of a class of options, so that help can wrap them."""
    kind.__doc__ = _flowing(kind.__doc__)
    return kind


def _flowing(docstring: str | None) -> str:
    return re.sub(r"\n {8,}(?=\S)", " ", inspect.cleandoc(docstring or ""))


def choice(option: str, value: str, known: Iterable[Name]) -> Name:
    """Return ``value`` as one of the known names.

    Raises:
        LabError: it is not one of them.
    """
    names = {str(name): name for name in known}
    if value not in names:
        raise LabError(f"{option} {value}: unknown.{near(value, names)} Known: {one_of(names)}.")
    return names[value]


def refuse_idle(other: str, given: Mapping[str, object]) -> None:
    """Refuse options that were given but have no effect with ``other``, which messages name.

    Raises:
        LabError: the message names them.
    """
    idle = [name for name, value in given.items() if value]
    if idle:
        have = "has" if len(idle) == 1 else "have"
        raise LabError(
            f"{', '.join(idle)}: {have} no effect with {other}. Leave out one or the other."
        )


def check_place(path: Path, option: str = "--out", *, folder: bool = False) -> None:
    """Refuse an output file or folder that cannot be written, before any work is done.

    Args:
        path: the file or folder.
        option: the option that names it, for messages; empty for a positional argument.
        folder: whether it is a folder.

    Raises:
        LabError: there is something else at or above the path, or a folder is not writable.
    """
    shown = f"{option} {path}".lstrip()
    kind, is_other = ("folder", is_file) if folder else ("file", is_folder)
    if is_other(path):
        raise LabError(f"{shown}: is a {'file' if folder else 'folder'}; give a {kind}.")
    if os.path.exists(path) and not (is_file(path) or is_folder(path)):  # noqa: PTH110 - as is_file
        return  # a pipe or the like
    target = Path(os.path.realpath(path))
    for place in (target, *target.parents) if folder else target.parents:
        if is_folder(place):
            try:
                tempfile.TemporaryFile(dir=place).close()  # permissions alone do not tell
            except OSError as error:
                reason = f"{place} is not writable ({error.strerror})"
                raise LabError(f"{shown}: {reason}. Choose another folder.") from None
            return
        if os.path.lexists(place):
            raise LabError(f"{shown}: {place} is not a folder. Choose another one.")


def curves_on_kodak(names: Sequence[str], images: Iterable[str], origin: str) -> list[Any]:
    """Return published curves on Kodak, for a comparison on images from ``origin``.

    Raises:
        LabError: no such curve is known, or an image is not one of Kodak's.
    """
    curves = [tcm_lab.evaluation.published_curve(name) for name in names]
    found = {match and match[0] for match in (re.search(r"kodim\d\d\b", each) for each in images)}
    if names and None in found:
        raise LabError(
            f"{names[0]}: published curves are for Kodak images, but {origin} holds others. Give a "
            "folder with kodim01 to kodim24, or use --anchors jpeg webp, which run on any image."
        )
    if names and 0 < len(found) < _KODAK_IMAGES:
        print(
            f"tcm-lab: warning: {origin} holds {len(found)} of the {_KODAK_IMAGES} Kodak images, "
            "but published curves are means over all of them",
            file=sys.stderr,
        )
    return curves


@flowing
@dataclass(frozen=True)
class Output:
    """How the result is shown.

    Attributes:
        format: One of markdown, latex, csv, json and html; by default that of --out's suffix, or
            markdown on a terminal.
        out: File to write the result to, instead of printing it.
    """

    format: Annotated[str | None, UNSET] = None
    out: Annotated[Path | None, UNSET] = None

    @property
    def chosen(self) -> str:
        """The format.

        Raises:
            LabError: neither --format nor the suffix of --out determines it.
        """
        if self.format is not None or self.out is None:
            return self.format or "markdown"
        known = tcm_lab.reporting.SUFFIXES
        for form, suffixes in known.items():
            if self.out.suffix.lower() in suffixes:
                return form
        usual = one_of(f"{self.out.stem}{suffixes[0]}" for suffixes in known.values())
        raise LabError(
            f"--out {self.out}: its suffix names no format; write {usual}, or give --format."
        )

    def check(self, *others: str) -> None:
        """Refuse a format that is neither a table format nor one of ``others``, which are JSON.

        Raises:
            LabError: it is unknown, the file's suffix names another, or the file can't be written.
        """
        form = choice("--format", self.chosen, [*tcm_lab.reporting.RENDERERS, *others])
        if self.out is not None:
            check_suffix(self.out, tcm_lab.reporting.SUFFIXES.get(form, (".json",)), form)
            check_place(self.out)

    def write(self, text: str) -> None:
        """Print or write a text."""
        if self.out is None:
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            write_atomically(self.out, text)
            print(f"{self.out}: written", file=sys.stderr)

    def show(self, *tables: tcm_lab.reporting.Table) -> None:
        """Print or write tables."""
        self.check()
        form: Any = self.chosen
        self.write(tcm_lab.reporting.render_all(tables, form))

    def show_records(
        self,
        records: Sequence[Any],
        tables: Sequence[tcm_lab.reporting.Table],
        convention: Any = "all",
    ) -> None:
        """Print or write records: complete in JSON, and as tables in any other format."""
        if self.chosen == "json":
            self.write(tcm_lab.reporting.records_json(records, convention=convention))
        else:
            self.show(*tables)

"""What several commands share: how options are spelled and read, and how results are printed."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_origin

import tyro
import yaml

import tcm_lab
from tcm_lab._utils.files import is_file, write_atomically
from tcm_lab._utils.plugins import import_layers
from tcm_lab.errors import LabError, near, one_of

Name = TypeVar("Name", bound=str)

UNSET = tyro.conf.arg(help_behavior_hint="")
"""Marks an option whose default is nothing, so that help shows none."""
_SOME = {"help_behavior_hint": "(at least one)"}
Models = Annotated[
    tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL ...", **_SOME)
]
Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
File = Annotated[Path, tyro.conf.Positional]
Files = Annotated[
    tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE ...", **_SOME)
]
Overrides = Annotated[
    tuple[str, ...], tyro.conf.arg(name="set", metavar="PATH=VALUE ...", help_behavior_hint="")
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
    """Give a command the option ``--import``, whose modules are imported before it runs.

    Options that default to nothing are shown without a default, and empty lists of positional
    arguments are refused.
    """

    def run(*args: Any, imports: tuple[str, ...] = (), **options: Any) -> int | None:
        if () in args:
            raise LabError("Name at least one MODEL or FILE; --help shows the rest.")
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
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {p.name: p.annotation for p in (*own, added)} | {"return": int | None}
    return run


def choice(option: str, value: str, known: Iterable[Name]) -> Name:
    """Return ``value`` as one of the names that its owner knows.

    Raises:
        LabError: it is not one of them.
    """
    names = {str(name): name for name in known}
    if value not in names:
        raise LabError(f"{option} {value}: unknown.{near(value, names)} Known: {one_of(names)}.")
    return names[value]


def changed(model: str, overrides: Sequence[str]) -> Any:
    """Return the model, or its configuration with ``path=value`` fields and its name changed.

    Raises:
        LabError: an override is not ``path=value``, or the model is not one of ours.
    """
    if not overrides:
        return model
    changes = {}
    for override in overrides:
        path, equals, value = override.partition("=")
        if not equals or not path:
            raise LabError(f"--set {override}: write PATH=VALUE, such as 'g_*.split=0.25'.")
        try:
            changes[path] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise LabError(f"--set {override}: {value!r} is not a YAML value.") from None
    config = tcm_lab.load_config(model)
    shown = [re.sub(r"[^A-Za-z0-9 ._/@=,+*?:{}[\]-]", "", override) for override in overrides]
    return config.override({**changes, "name": " ".join([config.name, *shown])})


def is_checkpoint(model: str) -> bool:
    """Tell a checkpoint's path from a model's name and from a YAML file."""
    path = Path(model)
    return path.suffix not in (".yaml", ".yml") and is_file(path)


def size(text: str) -> tuple[int, int]:
    """Read ``HxW``.

    Raises:
        LabError: it is spelled differently.
    """
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text.strip(), re.IGNORECASE)
    if found is None:
        raise LabError(f"--size {text}: write height x width in pixels, such as 512x768.")
    return int(found[1]), int(found[2])


@dataclass(frozen=True)
class Output:
    """How the result is shown.

    Attributes:
        format: One of markdown, latex, csv, json and html.
        out: File to write instead of printing.
    """

    format: str = "markdown"
    out: Annotated[Path | None, UNSET] = None

    def check(self, *others: str) -> None:
        """Refuse a format that is neither one of tables nor one of ``others``."""
        choice("--format", self.format, [*tcm_lab.reporting.RENDERERS, *others])

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
        form: Any = self.format
        self.write(tcm_lab.reporting.render_all(tables, form))

    def show_records(
        self,
        records: Sequence[Any],
        tables: Sequence[tcm_lab.reporting.Table],
        convention: Any = "all",
    ) -> None:
        """Print or write records, which are whole in JSON and tables in any other format."""
        if self.format == "json":
            self.write(tcm_lab.reporting.records_json(records, convention=convention))
        else:
            self.show(*tables)

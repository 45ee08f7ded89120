"""``tcm-lab study`` and ``python -m tcm_lab.study``: what was typed, and what is printed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from tyro.conf import Positional

from tcm_lab._foundation import LabError, near, one_of

if TYPE_CHECKING:
    from tcm_lab.study.plan import Tell
    from tcm_lab.study.report import ReportFiles
    from tcm_lab.study.run import StudyResult
    from tcm_lab.study.space import Space


def study(
    space: str,
    out: Path | None = None,
    data: Path | None = None,
    eval_data: Path | None = None,
    workers: int | None = None,
    trials: int | None = None,
    storage: str | None = None,
    cache: Path | None = None,
    dry_run: bool = False,
) -> int:
    """Search a space of variants: assemble, count, train, evaluate, tabulate.

    A second call goes on where the first one stopped. Other commands: tcm-lab study schema,
    init --storage URL, compare FOLDER FOLDER, report FOLDER.

    Args:
        space: YAML file of the space; configs/split.yaml and the like are packaged.
        out: folder of the study (default: runs/NAME).
        data: folder of training pictures (default: embedded photographs and dead leaves).
        eval_data: folder of evaluation pictures (default: embedded photographs).
        workers: processes (default: one per GPU, else one per CPU core).
        trials: variants to train, instead of the space's budget.
        storage: database for workers on several machines, such as
            postgresql+psycopg://USER@HOST/DATABASE (default: an SQLite file in the folder).
        cache: folder of finished trainings that studies share.
        dry_run: count and estimate only; train nothing.
    """
    from tcm_lab.study.space import load_space

    searched = load_space(space)
    if dry_run:
        from tcm_lab.study.dry_run import dry_run as look_ahead

        print(look_ahead(searched, data=data, eval_data=eval_data, workers=workers, trials=trials))
        return 0
    from tcm_lab.study.run import run_study

    typed = {
        "--space": space, "--out": out, "--data": data, "--eval-data": eval_data,
        "--trials": trials,
    }  # fmt: skip
    command = "tcm-lab study " + " ".join(
        f"{flag} {shlex.quote(str(value))}" for flag, value in typed.items() if value is not None
    )
    result = run_study(
        searched, out=out, data=data, eval_data=eval_data, storage=storage, workers=workers,
        trials=trials, cache=cache, showing=lambda todo, done: _showing(searched, todo, done),
    )  # fmt: skip
    return _finish(result, command)


def report(folder: Positional[Path]) -> int:
    """Write the report of a study again, from what its database holds.

    Args:
        folder: of the study.
    """
    from tcm_lab.study.run import open_result

    return _finish(open_result(folder), f"tcm-lab study report {shlex.quote(str(folder))}")


def schema() -> int:
    """Print the JSON Schema of space files, for editors."""
    from tcm_lab.study.space import space_schema

    sys.stdout.write(space_schema())
    return 0


def init(storage: str) -> int:
    """Make the tables of an empty database, once, before workers on several machines use it.

    Args:
        storage: address, such as postgresql+psycopg://USER@HOST/DATABASE.
    """
    from tcm_lab.study.storage import open_storage, shown

    open_storage(storage)
    print(f"{shown(storage)} is ready.")
    return 0


OTHERS: dict[str, Callable[..., int]] = {"schema": schema, "init": init, "report": report}


def main(args: Sequence[str] | None = None) -> int:
    """Run a study, or one of the commands about studies, and return the exit code.

    Raises:
        LabError: a mistake that the user can mend.
    """
    args = sys.argv[1:] if args is None else list(args)
    # Lines appear as they are printed, also where nobody watches a terminal.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a text stream
    if args[:1] and args[0] in OTHERS:
        name = f"tcm-lab study {args[0]}"
        return tyro.cli(OTHERS[args[0]], prog=name, args=args[1:])
    if args[:1] and not args[0].startswith("-"):
        raise LabError(
            f"'{args[0]}': unknown.{near(args[0], OTHERS)} Write tcm-lab study --space FILE, or "
            f"one of {one_of(OTHERS)}."
        )
    return tyro.cli(study, prog="tcm-lab study", args=args)


@contextmanager
def _showing(space: Space, todo: int, done: int) -> Iterator[Tell]:
    from rich.console import Console

    from tcm_lab.study.display import Display

    console = Console()
    begun = f"going on after {done} of" if done else "with"
    title = space.title or space.base
    console.print(
        f"Study {space.name} ({title}): {begun} {todo} trainings.",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    with Display(todo, done, console) as display:
        yield display


def _finish(result: StudyResult, command: str) -> int:
    from tcm_lab.study.report import write_report

    files = write_report(result, command)
    _print_summary(result, files)
    return 0


def _print_summary(result: StudyResult, files: ReportFiles) -> None:
    from tcm_lab.study.report import lead

    print()
    print((result.out / "table.md").read_text(encoding="utf-8"))
    for line in lead(files.summaries, result.space):
        print(line)
    print()
    tables = ", ".join(path.name for path in files.tables)
    plots = ", ".join(path.name for path in files.plots)
    print(f"Report  {files.page}")
    print(f"Tables  {result.out}/: {tables}")
    print(f"Plots   {result.out}/: {plots}")
    print(f"Front   {result.out}/front/: {', '.join(path.name for path in files.front)}")
    for label, reason in result.failed.items():
        print(f"FAILED  {label}: {reason}")

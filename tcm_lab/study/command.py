"""``tcm-lab study`` and ``python -m tcm_lab.study``: what was typed, and what is printed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from tcm_lab.errors import LabError, near, one_of
from tcm_lab.reporting import Format

if TYPE_CHECKING:
    from tcm_lab.study.context import OnEvent
    from tcm_lab.study.result import StudyResult
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
    launcher: Literal["local", "slurm"] = "local",
    slurm: tuple[str, ...] = (),
    dry_run: bool = False,
) -> int:
    """Search a space of variants: assemble, count, train, evaluate, tabulate.

    A second call goes on where the first one stopped. Other commands: tcm-lab study report FOLDER,
    compare FOLDER FOLDER, schema, init --storage URL. To watch: optuna-dashboard on the database.

    Args:
        space: YAML file of the space; configs/split.yaml and the like are packaged.
        out: folder of the study, on a disk of this machine (default: runs/NAME).
        data: folder of training images (default: embedded photographs and dead leaves).
        eval_data: folder of evaluation images (default: embedded photographs).
        workers: processes (default: one per GPU, else one per CPU core).
        trials: variants to train, instead of the space's budget.
        storage: database for workers on several machines, such as
            postgresql+psycopg://USER@HOST/DATABASE (default: an SQLite file in the folder).
        cache: folder of finished trainings that studies share.
        launcher: where workers run: as processes here, or as jobs of a SLURM cluster.
        slurm: the cluster's own options, such as partition=gpu timeout_min=720.
        dry_run: count and estimate only; train nothing.
    """
    from tcm_lab.study.space import load_space

    searched = load_space(space)
    if dry_run:
        from tcm_lab.study.dry_run import dry_run as look_ahead

        print(look_ahead(searched, data=data, eval_data=eval_data, workers=workers, trials=trials))
        return 0
    if launcher == "slurm":
        return _submit(
            searched, slurm, out=out, data=data, eval_data=eval_data, storage=storage,
            workers=workers, trials=trials, cache=cache,
        )  # fmt: skip
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
        trials=trials, cache=cache, display=lambda todo, done: _showing(searched, todo, done),
    )  # fmt: skip
    return _finish(result, command)


def _submit(
    space: Space,
    options: tuple[str, ...],
    *,
    storage: str | None,
    workers: int | None,
    **where: Any,
) -> int:
    """Queue a study's trainings, and submit the jobs that will do them."""
    from tcm_lab.study.run import submit_study

    out, jobs = submit_study(space, workers=workers, options=options, storage=storage, **where)
    print(f"Submitted {len(jobs)} workers as jobs {', '.join(jobs)}; logs in {out}/slurm.")
    print(f"When they have ended: tcm-lab study report {out} --storage …")
    return 0


def report(folder: Positional[Path], storage: str | None = None) -> int:
    """Write the report of a study again, from what its database holds.

    Args:
        folder: of the study.
        storage: its database, if that is not the SQLite file in the folder.
    """
    from tcm_lab.study.result import open_result

    result = open_result(folder, storage)
    return _finish(result, f"tcm-lab study report {shlex.quote(str(folder))}")


def compare(
    first: Positional[Path],
    second: Positional[Path],
    form: Annotated[Format, tyro.conf.arg(name="format")] = "markdown",
) -> int:
    """Set two studies side by side: their fronts, and every variant of either.

    Args:
        first: folder of a study.
        second: folder of another.
        form: markdown, latex, json or html.
    """
    from tcm_lab.reporting import render_all
    from tcm_lab.study.compare import compare_folders

    print(render_all(compare_folders(first, second), form))
    return 0


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
    from tcm_lab.study.storage import close_storage, open_storage, shown

    close_storage(open_storage(storage))
    print(f"{shown(storage)} is ready.")
    return 0


OTHERS: dict[str, Callable[..., int]] = {
    "report": report,
    "compare": compare,
    "schema": schema,
    "init": init,
}


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
def _showing(space: Space, todo: int, done: int) -> Iterator[OnEvent]:
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

    print(write_report(result, command).text())
    return 0

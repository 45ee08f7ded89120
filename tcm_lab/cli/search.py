"""``tcm-lab study`` and ``python -m tcm_lab.study``: commands that search a space of variants."""

from __future__ import annotations

import functools
import importlib.util
import shlex
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import tcm_lab
from tcm_lab._utils.files import check_suffix, write_atomically
from tcm_lab._utils.plugins import imported_layers
from tcm_lab._utils.progress import progress
from tcm_lab.cli import options
from tcm_lab.cli.display import Display
from tcm_lab.cli.options import File, Folders, Output
from tcm_lab.errors import LabError

if TYPE_CHECKING:
    from tcm_lab.study import Space, StudyResult
    from tcm_lab.study.context import OnEvent


def run(
    *,
    space: str,
    out: Path | None = None,
    data: Path | None = None,
    eval_data: Path | None = None,
    workers: int | None = None,
    trials: int | None = None,
    storage: str | None = None,
    cache: Path | None = None,
    launcher: str = "local",
    slurm: tuple[str, ...] = (),
    dry_run: options.Flag = False,
    estimate_time: options.Flag = False,
    time_coding: options.Flag = False,
    open: options.Flag = False,
) -> None:
    """Search a space of variants: assemble, count, train, evaluate, tabulate.

    Rerun the command to resume. To watch: tcm-lab dashboard runs/NAME.

    Args:
        space: YAML file of the space; configs/split.yaml and others are in the package.
        out: Folder of the study, on a local disk; by default runs/NAME.
        data: Folder of training images; by default embedded photographs and dead leaves.
        eval_data: Folder of evaluation images; by default embedded photographs.
        workers: Number of processes, spread over the GPUs; by default one per GPU, or without GPUs
            one per CPU core, 4 at most.
        trials: Number of variants to train, instead of the space's budget.
        storage: Database for workers on several machines, such as
            postgresql+psycopg://USER@HOST/DATABASE; by default an SQLite file in the folder.
        cache: Folder of finished trainings that studies share.
        launcher: Where workers run: local (processes here) or slurm (jobs of a cluster).
        slurm: Options of the cluster, such as partition=gpu timeout_min=720.
        dry_run: List the variants with their costs and those that constraints drop; train nothing.
        estimate_time: Like --dry-run, and time some steps of some variants, which takes a minute.
        time_coding: Like --dry-run, and time encoding and decoding of every variant.
        open: Open the report in the browser once it is written.
    """
    study = tcm_lab.study
    where = options.choice("--launcher", launcher, ("local", "slurm"))
    if where == "local":
        options.refuse_idle("--launcher local", {"--slurm": slurm})
    else:
        options.refuse_idle("--launcher slurm", {"--open": open})
    for name, lists in {
        "--dry-run": dry_run, "--estimate-time": estimate_time, "--time-coding": time_coding,
    }.items():  # fmt: skip
        if lists:
            options.refuse_idle(f"{name}, which trains nothing", {"--open": open})
    searched = study.load_space(space)
    imports = dict.fromkeys([*searched.imports, *imported_layers()])
    searched = searched.model_copy(update={"imports": tuple(imports)})
    context = study.prepare(
        searched, out=out, data=data, eval_data=eval_data, storage=storage, trials=trials,
        cache=cache,
    )  # fmt: skip
    if dry_run or estimate_time or time_coding:
        with progress("turn") as on_progress:
            coding = {"on_progress": on_progress} if time_coding else None
            found = study.dry_run(context, workers, timed=estimate_time, coding=coding)
        print(found.text())
        return
    if where == "slurm":
        jobs = ", ".join(job.job_id for job in study.submit_study(context, workers, slurm))
        print(f"Submitted workers as jobs {jobs}; logs in {context.out}/slurm.")
        print(f"When they have ended: tcm-lab study report {context.out} --storage …")
        return
    result = study.run_study(context, workers, functools.partial(_display, searched))
    with progress("jpeg, coding") as on_progress:
        study.measure_anchor(context.out, context.data.evaluation, on_progress)
    with progress("front, decoding") as on_progress:
        study.decode_front(result, context.data.evaluation, on_progress)
    typed = {"space": space, "out": out, "data": data, "eval-data": eval_data, "trials": trials}
    words: list[object] = []
    for name, value in typed.items():
        if value is not None:
            words += [f"--{name}", value]
    _report(result, *words, shows=open)


def report(
    folder: File,
    /,
    *,
    storage: str | None = None,
    eval_data: Path | None = None,
    open: options.Flag = False,
) -> None:
    """Write a study's report again, from its database or, without one, from its records.

    Args:
        folder: Folder of the study.
        storage: Database of the study; by default the SQLite file in the folder, else its
            records.jsonl.
        eval_data: Folder of the study's evaluation images, to measure JPEG on them if the study
            lacks it or an earlier version measured it.
        open: Open the report in the browser.
    """
    result = tcm_lab.study.open_result(folder, storage)
    if eval_data is not None:
        images = tcm_lab.data.open_images(eval_data, "eval")
        if result.image_sets - {images.fingerprint}:
            raise LabError(
                f"--eval-data {eval_data}: holds other images than those that the study was "
                "evaluated on; give their folder."
            )
        with progress("jpeg, coding") as on_progress:
            tcm_lab.study.measure_anchor(folder, images, on_progress)
    _report(result, "report", folder, shows=open)


def dashboard(
    folder: File, /, *, storage: str | None = None, host: str = "127.0.0.1", port: int = 8080
) -> None:
    """Watch a study in the browser with optuna-dashboard, until Ctrl-C.

    Args:
        folder: Folder of the study, which may be running.
        storage: Database of the study; by default the SQLite file in the folder.
        host: Address to serve at.
        port: Port to serve at.
    """
    url = tcm_lab.study.database_of(folder, storage)
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise LabError('dashboard: needs optuna-dashboard; pip install "tcm-lab[dashboard]".')
    from optuna_dashboard import run_server

    print(f"http://{host}:{port} shows {folder}; Ctrl-C ends it.")
    try:
        run_server(url, host=host, port=port)
    except (OSError, OverflowError) as error:  # of ports above 65535
        raise LabError(f"--host {host} --port {port}: cannot be served at ({error}).") from None


def compare(first: File, second: File, /, *, output: Output) -> None:
    """Compare two studies: their fronts, and every variant of either.

    Args:
        first: Folder of a study.
        second: Folder of another study.
        output: How the result is shown.
    """
    study = tcm_lab.study
    output.check()
    output.show(*study.compare_studies(study.open_result(first), study.open_result(second)))


def agreement(
    plan: File,
    /,
    *,
    out: Path | None = None,
    data: Path | None = None,
    eval_data: Path | None = None,
    cache: Path | None = None,
    workers: int | None = None,
) -> None:
    """Measure how well estimators agree with training, over the variants of a space.

    Rerun the command to resume.

    Args:
        plan: YAML file with the space, the estimators and their seeds.
        out: Folder for all studies; by default runs/NAME, after the plan's file.
        data: Folder of training images; by default embedded photographs and dead leaves.
        eval_data: Folder of evaluation images; by default embedded photographs.
        cache: Folder of finished trainings that studies share; by default records in OUT.
        workers: Number of processes, spread over the GPUs; by default one per GPU, or without GPUs
            one per CPU core, 4 at most.
    """
    study = tcm_lab.study
    found = study.load_plan(plan)
    place = Path("runs") / plan.stem if out is None else out
    spaces = found.studies(plan.parent)
    displays = {
        name: functools.partial(_display, space.model_copy(update={"title": name}))
        for name, space in spaces.items()
    }
    table = study.run_plan(
        found, place, folder=plan.parent, data=data, eval_data=eval_data, cache=cache,
        workers=workers, displays=displays,
    )  # fmt: skip
    print(tcm_lab.reporting.render(table, "markdown"))


def noise(studies: Folders, /, *, out: Path | None = None) -> None:
    """Measure how much differences between variants vary, from studies with several seeds.

    The result shows which differences a budget resolves. Variants that change only g_a and g_s vary
    less than others, and are measured separately. The package holds the noise of its own recipes.

    Args:
        studies: Folders of studies; those with the same recipe and baseline are measured together.
        out: YAML file to write the result to.
    """
    if out is not None:
        check_suffix(out, [".yaml", ".yml"], "YAML")
        options.check_place(out)
    study = tcm_lab.study
    found = study.noise_of_studies(study.open_result(folder).records for folder in studies)
    text = study.noise_yaml(found)
    if out is not None:
        write_atomically(out, text)
    print(text, end="")


def schema() -> None:
    """Print the JSON Schema of space files, for editors."""
    sys.stdout.write(tcm_lab.study.space_schema())


def init(*, storage: str) -> None:
    """Create the tables of an empty database, once, before workers on several machines use it.

    Args:
        storage: Address, such as postgresql+psycopg://USER@HOST/DATABASE.
    """
    study = tcm_lab.study
    study.close_storage(study.open_storage(storage))
    print(f"{study.shown(storage)} is ready.")


@contextmanager
def _display(space: Space, todo: int, done: int) -> Iterator[OnEvent]:
    from rich.console import Console

    console = Console()
    begun = f"resuming after {done} of " if done else ""
    console.print(
        f"Study {space.name} ({space.title or space.baseline.name}): {begun}{todo} trainings.",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    shared = space.estimator.baseline_first
    with Display(todo, done, console, first_is_shared=shared) as display:
        yield display


def _report(result: StudyResult, *words: object, shows: bool) -> None:
    """Write a study's report, which shows the command; print its summary, and open it if asked."""
    imports = [word for source in imported_layers() for word in ("--import", source)]
    command = shlex.join(["tcm-lab", "study", *map(str, words), *imports])
    summary = tcm_lab.study.write_report(result, command)
    print(summary.text())
    if shows:
        webbrowser.open(summary.page.resolve().as_uri())

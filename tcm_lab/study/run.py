"""Run of a whole study: queue its variants and train them; rerun to resume."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tcm_lab._utils.files import is_file, write_atomically
from tcm_lab._utils.interrupts import hold_interrupts
from tcm_lab._utils.yaml import read_text
from tcm_lab.errors import LabError
from tcm_lab.metrics import METRICS
from tcm_lab.study.capacity import threads_each, worker_count
from tcm_lab.study.context import OnEvent, StudyContext
from tcm_lab.study.estimators import Train
from tcm_lab.study.folder import BASE, DATABASE, NAME, RECORDS, SPACE
from tcm_lab.study.noise import resolved
from tcm_lab.study.pool import run_workers
from tcm_lab.study.proposals import finalist_trainings
from tcm_lab.study.queue import TrialQueue, open_queue
from tcm_lab.study.result import StudyResult
from tcm_lab.study.space import Space, load_space
from tcm_lab.study.storage import shown
from tcm_lab.study.stored_space import keep_base, stored_space, write_space
from tcm_lab.study.trial import key_of
from tcm_lab.study.variants import Variant

Display = Callable[[int, int], AbstractContextManager[OnEvent]]
"""Called with (trainings in total, trainings done); its context yields ``on_event``."""


def run_study(
    context: StudyContext, workers: int | None = None, display: Display | None = None
) -> StudyResult:
    """Train and evaluate a study's variants, resuming an earlier run in its folder.

    Args:
        context: the study.
        workers: number of processes; by default one per GPU, else one per CPU core up to 4.
        display: shows the progress.

    Raises:
        LabError: the folder holds another study, or the disk or the database fails. Finished
            trainings are kept.
        KeyboardInterrupt: Ctrl-C; rerun to resume.
    """
    space, count = context.space, worker_count(workers)
    todo, done = fill_queue(context)
    useful = count if space.budget.seeds > 1 else min(count, max(todo - done, 1))
    with display(todo, done) if display else nullcontext(lambda event: None) as on_event:
        run_workers(replace(context, threads=threads_each(count)), useful, on_event)
    with open_queue(context.storage, context.name) as queue:
        return StudyResult(space, context.out, tuple(queue.records()), queue.failures())


def fill_queue(context: StudyContext) -> tuple[int, int]:
    """Create a study's folder and queue, or open them as they were left.

    Returns:
        The number of trainings in the study, as far as it is known, and how many are done.

    Raises:
        LabError: the folder holds another study, or can't be written.
    """
    space, variants = context.space, context.variants
    known = variants.known()
    _make_folder(context.out, "--out")
    if context.cache is not None:  # fail now, not after hours of work
        _make_folder(context.cache, "--cache")
    _refuse_published(context)
    directions = [METRICS[name].direction for name in space.objectives]
    with open_queue(context.storage, context.name, directions) as queue:
        _check_same_study(queue, context)
        queue.name_objectives(space.objectives)
        queue.reclaim()
        if space.mode == "search":  # so that the costliest variants do not come last
            known.sort(key=lambda v: (v.is_baseline, variants.cost(v).complexity.kmacs_per_px))
            known.reverse()
        enqueue_missing(queue, space, known)
        queue.reorder()
        trainings = len(known)
        if not space.enumerated:
            trainings = min(context.trials, variants.count() or context.trials)
        if space.trains_every_seed:
            trainings *= space.budget.seeds
        done = len(queue.records())  # including further seeds of the front, unknown in advance
        return max(trainings + finalist_trainings(space), done), done


def enqueue_missing(queue: TrialQueue, space: Space, variants: Sequence[Variant]) -> None:
    """Queue the variants that no trial trains, has trained or has found impossible to train.

    Trainings that ran out of memory are queued again, since this call may run fewer at once. So are
    further seeds and finalists that were lost with their workers.
    """
    trials = queue.trials()
    known = {trial.key for trial in trials if not (trial.is_lost or trial.out_of_memory)}
    again = {
        trial.key: trial
        for trial in trials
        if trial.key not in known and (trial.seed or trial.finalist or trial.out_of_memory)
    }
    for trial in again.values():
        queue.try_again(trial.number, retries=0, begun=trial.begun or trial.out_of_memory)
    for variant in variants:
        key = key_of(variant.fingerprint, 0)
        if key not in known | again.keys():
            params = space.encode(variant.params)
            queue.enqueue(params, key=key, seed=0, baseline=variant.is_baseline)


def _make_folder(folder: Path, option: str) -> None:
    fix = f"Choose another folder with {option}."
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"{folder}: cannot be created ({error.strerror}). {fix}") from error
    if not os.access(folder, os.W_OK):
        raise LabError(f"{folder}: is not writable. {fix}")


def _refuse_published(context: StudyContext) -> None:
    """Refuse a folder without a study of its own if it holds files that this one would overwrite.

    Raises:
        LabError: the message names the file.
    """
    out = context.out
    if (out / NAME).exists() or (out / DATABASE).exists():
        return
    if (out / RECORDS).exists():
        raise LabError(
            f"{out / RECORDS}: belongs to a published study. Choose another folder with --out."
        )
    _has_space(context)


def _has_space(context: StudyContext) -> bool:
    """Return whether a new study's folder already holds its space, as when it is searched in place.

    Raises:
        LabError: the folder holds another space.
    """
    path, space = context.out / SPACE, context.space
    if not path.exists():
        return False
    found = resolved(load_space(path), len(context.data.evaluation))
    ours, theirs = (stored_space(each, context.out) for each in (space, found))
    if theirs.model_copy(update={"imports": ours.imports}) != ours:  # commands may add imports
        raise LabError(
            f"{path}: is not the study's space. Choose another folder with --out, or move the file "
            "away."
        )
    return True


@hold_interrupts()
def _check_same_study(queue: TrialQueue, context: StudyContext) -> None:
    """Refuse to resume a study with another space; store the space of a new study.

    Later calls may ask for more trials or seeds; the stored space is then updated.

    Raises:
        LabError: the message names what changed and how to start over.
    """
    space, study, out = context.space, queue.study, context.out
    facts: dict[str, Any] = space.model_dump(mode="json", exclude={"title", "imports"})
    for growing in ("trials", "seeds", "finalists"):
        facts["budget"].pop(growing)
    if space.estimator == Train():  # the only one in studies of earlier versions
        facts.pop("estimator")
    facts["base"] = context.variants.base.fingerprint
    facts = json.loads(json.dumps(facts | context.data.fingerprints))
    before = study.user_attrs.get("space")
    if before is None:
        if len(study.directions) != len(space.objectives) or queue.trials():
            raise LabError(
                f"{shown(context.storage)}: its study '{context.name}' belongs to another program. "
                "Choose another folder with --out."
            )
        if not _has_space(context):
            write_space(space, out)
        write_atomically(out / NAME, json.dumps({"name": context.name}) + "\n")
        study.set_user_attr("full_space", _whole(space, out))
        study.set_user_attr("space", facts)
        return
    changes = _differences(before, facts)
    if changes:
        raise LabError(
            f"{out}: holds a study of another space: {'; '.join(changes[:3])}"
            f"{'; …' if len(changes) > 3 else ''}. To start over, choose another folder with "
            "--out, or remove this one; to resume, undo the change."
        )
    stored = study.user_attrs["full_space"]
    if stored["base"] == BASE:  # also if another machine began the study
        keep_base(space, out)
    if stored != _whole(space, out):
        if _is_written(stored, out / SPACE):
            write_space(space, out)
        study.set_user_attr("full_space", _whole(space, out))


def _whole(space: Space, out: Path) -> dict[str, Any]:
    """Return every field of a space, as stored in a study's database."""
    return stored_space(space, out).model_dump(mode="json")


def _is_written(stored: dict[str, Any], path: Path) -> bool:
    """Return whether a study's space file is still as it was written for the stored space."""
    imports = tuple(stored.get("import", ()))  # their files may have moved since
    try:
        ours = Space.model_validate(stored | {"import": []}).model_copy(update={"imports": imports})
    except ValidationError:  # written by another version
        return False
    return is_file(path) and read_text(path, str(path)) == ours.to_yaml()


def _differences(before: Any, now: Any, place: str = "") -> list[str]:
    """Describe each field that differs, with its old and new value."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [f"{place} was {before!r} and is {now!r}"]
    changes = []
    for name in sorted({*before, *now}):
        inner = f"{place}.{name}" if place else name
        if name in before and name in now:
            changes += _differences(before[name], now[name], inner)
        else:
            changes.append(f"{inner} is {'gone' if name in before else 'new'}")
    if changes or list(before) == list(now):
        return changes
    return [f"{place} are in another order"]

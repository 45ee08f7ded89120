"""A whole study: check, count, queue, work, report; and going on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tcm_lab._utils.files import write_atomically
from tcm_lab.data import open_images
from tcm_lab.errors import ConfigError, LabError
from tcm_lab.metrics import METRICS
from tcm_lab.study.cost import VariantCost, exceeded, measure_cost
from tcm_lab.study.ledger import Ledger, key_of
from tcm_lab.study.plan import Plan, Tell, Trainer
from tcm_lab.study.pool import run_workers, visible_gpus
from tcm_lab.study.result import DATABASE, StudyResult, read_ledger
from tcm_lab.study.space import Space
from tcm_lab.study.storage import sqlite_url, storage_errors
from tcm_lab.study.variants import Assembler, Variant

_MAX_CPU_WORKERS = 4
Showing = Callable[[int, int], AbstractContextManager[Tell]]
"""Given trainings to do and trainings done, shows events while its block runs."""


def run_study(
    space: Space,
    *,
    out: Path | None = None,
    data: Path | None = None,
    eval_data: Path | None = None,
    storage: str | None = None,
    workers: int | None = None,
    trials: int | None = None,
    cache: Path | None = None,
    showing: Showing | None = None,
    trainer: Trainer | None = None,
) -> StudyResult:
    """Train and evaluate a space's variants, going on with what ``out`` holds already.

    Args:
        space: what to search.
        out: folder of the study; ``runs/<name>`` by default. Its last part names the study.
        data: folder of training images; ``None`` for the embedded ones.
        eval_data: folder of evaluation images; likewise.
        storage: address of the database; an SQLite file in ``out`` by default.
        workers: processes; by default one per GPU, else one per CPU core.
        trials: variants to train, instead of the budget's.
        cache: folder of records that studies share.
        showing: shows how it goes.
        trainer: what trains; the real one by default.

    Raises:
        LabError: the space doesn't suit, ``out`` holds another study, or the disk or the database
            fails. What was finished stays.
        KeyboardInterrupt: Ctrl-C; calling again goes on.
    """
    plan = prepare(
        space, out=out, data=data, eval_data=eval_data, storage=storage, trials=trials,
        cache=cache, trainer=trainer,
    )  # fmt: skip
    count = worker_count(workers)
    todo, done = begin(plan)
    useful = count if plan.seeds > 1 else min(count, max(todo - done, 1))
    with (showing or _silently)(todo, done) as tell:
        run_workers(replace(plan, threads=max(1, cores() // count)), useful, tell)
    with storage_errors(plan.storage), Ledger(plan.storage, plan.name) as ledger:
        return read_ledger(ledger, plan.space, plan.out)


def begin(plan: Plan) -> tuple[int, int]:
    """Make a study's folder and queue, or find them as they were left.

    Returns:
        How many trainings the study has in all, so far as is known, and how many are done.

    Raises:
        LabError: the folder holds another study, or can't be written.
    """
    variants = known_variants(plan.space)
    make_folder(plan.out)
    directions = [METRICS[name].direction for name in plan.space.objectives]
    with storage_errors(plan.storage), Ledger(plan.storage, plan.name, directions) as ledger:
        check_same_study(ledger, plan)
        ledger.reclaim()
        enqueue_missing(ledger, variants)
        ledger.reorder()
        return trainings_to_do(plan, len(variants)), len(ledger.records())


def prepare(
    space: Space,
    *,
    out: Path | None,
    data: Path | None,
    eval_data: Path | None,
    storage: str | None,
    trials: int | None,
    cache: Path | None,
    trainer: Trainer | None = None,
) -> Plan:
    """Look at everything that can be wrong before anything is written.

    Raises:
        LabError: images are missing, the folder can't be made, or no variant fits.
    """
    folder = Path("runs") / space.name if out is None else out
    if trials is not None:
        if space.enumerated:
            raise ConfigError(
                f"trials = {trials}: this space trains all its variants; leave it out"
            )
        if trials < 1:
            raise ConfigError(f"trials = {trials}: give at least 1")
    train_images, eval_images = open_images(data, "train"), open_images(eval_data, "eval")
    train_images.at_least(space.budget.recipe_for(space.seed).crop)
    baseline = Assembler(space).baseline()
    cost = measure_cost(baseline.config, space)
    over = exceeded(cost, space)
    if over:
        raise ConfigError(_nothing_fits(space, baseline, cost))
    if trainer is None:
        from tcm_lab.study.trainer import CodecTrainer

        trainer = CodecTrainer(data, eval_data)
    return Plan(
        space=space,
        out=folder,
        storage=storage or sqlite_url(folder / DATABASE),
        name=folder.absolute().name,
        train_data=f"{train_images.fingerprint}{'+leaves' if train_images.embedded else ''}",
        eval_data=eval_images.fingerprint,
        trainer=trainer,
        trials=trials or space.budget.trials,
        seeds=space.budget.seeds,
        cache=cache,
        threads=1,
    )


def worker_count(workers: int | None) -> int:
    """Return how many processes work: as told, or one per GPU, or one per core."""
    if workers is not None:
        if workers < 1:
            raise ConfigError(f"workers = {workers}: give at least 1")
        return workers
    return len(visible_gpus()) or min(cores(), _MAX_CPU_WORKERS)


def cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def check_same_study(ledger: Ledger, plan: Plan) -> None:
    """Refuse to go on with another study than the one that was begun; note what is begun.

    More trials or seeds may be asked for later.

    Raises:
        LabError: the message names what changed and how to start anew.
    """
    facts: dict[str, Any] = plan.space.model_dump(mode="json", exclude={"title"})
    for growing in ("trials", "seeds"):
        facts["budget"].pop(growing)
    if not facts["budget"]["changes"]:
        del facts["budget"]["changes"]  # as studies noted it that were begun before there were any
    facts["base"] = Assembler(plan.space).base.fingerprint
    facts |= {"training images": plan.train_data, "evaluation images": plan.eval_data}
    facts = json.loads(json.dumps(facts))
    before = ledger.study.user_attrs.get("space")
    if before is None:
        write_atomically(plan.out / "space.yaml", plan.space.to_yaml())
        ledger.study.set_user_attr("space", facts)
        ledger.study.set_user_attr("full_space", plan.space.model_dump(mode="json"))
        return
    changes = list(_differences(before, facts))
    if changes:
        raise LabError(
            f"{plan.out}: holds a study of another space: {'; '.join(changes[:3])}"
            f"{'; …' if len(changes) > 3 else ''}. To start anew, name another folder by --out, or "
            "remove this one; to go on, undo the change."
        )


def _differences(before: Any, now: Any, place: str = "") -> list[str]:
    """Say each field that differs, with its old and new value."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for name in sorted({*before, *now}):
            inner = f"{place}.{name}" if place else name
            if name not in before:
                found.append(f"{inner} is new")
            elif name not in now:
                found.append(f"{inner} is gone")
            else:
                found += _differences(before[name], now[name], inner)
        if found or list(before) == list(now):
            return found
        return [f"{place} are in another order"]
    return [] if before == now else [f"{place} was {before!r} and is {now!r}"]


def known_variants(space: Space) -> list[Variant]:
    """Return what is trained for certain: the baseline, and all of an enumerated space.

    Raises:
        ConfigError: the constraints leave nothing beside the baseline.
    """
    assembler = Assembler(space)
    if not space.enumerated:
        return [assembler.baseline()]
    kept = [
        variant
        for variant in assembler.all()
        if variant.is_baseline or not exceeded(measure_cost(variant.config, space), space)
    ]
    if len(kept) < 2:
        raise ConfigError(
            f"constraints {_bounds(space)}: leave no variant beside the baseline; raise them"
        )
    return kept


def enqueue_missing(ledger: Ledger, variants: Sequence[Variant]) -> None:
    """Queue the variants that no trial is about yet."""
    known = ledger.keys("COMPLETE", "PRUNED", "RUNNING", "WAITING")
    failed = {
        trial.user_attrs["key"]
        for trial in ledger.trials("FAIL")
        if "reason" in trial.user_attrs and "key" in trial.user_attrs
    }
    for variant in variants:
        key = key_of(variant.fingerprint, 0)
        if key not in known and key not in failed:
            ledger.enqueue(variant.params, key, 0, baseline=variant.is_baseline)


def trainings_to_do(plan: Plan, variants: int) -> int:
    """Return how many trainings the study has in all, so far as is known."""
    trainings = variants if plan.space.enumerated else plan.trials or 1
    return trainings * (plan.seeds if plan.space.mode == "ablation" else 1)


def make_folder(folder: Path) -> None:
    """Make a study's folder.

    Raises:
        LabError: it can't be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(
            f"{folder}: cannot be made ({error.strerror}). Name another folder by --out."
        ) from error
    if not os.access(folder, os.W_OK):
        raise LabError(f"{folder}: may not be written. Name another folder by --out.")


def _nothing_fits(space: Space, baseline: Variant, cost: VariantCost) -> str:
    """Say which bound the baseline breaks, and the nearest that some variant keeps."""
    over = exceeded(cost, space)
    told = ", ".join(f"{name} = {bound:g}" for name, (_, bound) in over.items())
    has = ", ".join(f"{name} = {value:.6g}" for name, (value, _) in over.items())
    return (
        f"constraints: {told}, but the baseline {baseline.config.name} has {has}, and the baseline "
        "is always trained. Raise the bound, or choose a smaller base."
    )


def _bounds(space: Space) -> str:
    return ", ".join(f"{name} = {bound:g}" for name, bound in space.constraints.items())


class _silently:  # noqa: N801  # reads as what it does
    def __init__(self, todo: int, done: int) -> None:
        pass

    def __enter__(self) -> Tell:
        return lambda event: None

    def __exit__(self, *_: object) -> None:
        pass

"""Preparation of a study: images and variants are checked; nothing is written."""

from __future__ import annotations

from pathlib import Path

from tcm_lab.data import open_images
from tcm_lab.errors import ConfigError
from tcm_lab.evaluation import check_requested
from tcm_lab.study.context import StudyContext, StudyData, Trainer
from tcm_lab.study.folder import DATABASE, sqlite_url, study_name
from tcm_lab.study.noise import resolved
from tcm_lab.study.space import Space
from tcm_lab.study.trainer import CodecTrainer
from tcm_lab.study.variants import Variants


def prepare(
    space: Space,
    *,
    out: Path | None = None,
    data: Path | None = None,
    eval_data: Path | None = None,
    storage: str | None = None,
    trials: int | None = None,
    cache: Path | None = None,
    trainer: Trainer | None = None,
) -> StudyContext:
    """Check a study's inputs before anything is written, and return its context.

    Args:
        space: the search space.
        out: folder of the study; ``runs/<name>`` by default. Its last part names the study.
        data: folder of training images; ``None`` for the embedded ones.
        eval_data: folder of evaluation images; ``None`` for the embedded ones.
        storage: address of the database; an SQLite file in ``out`` by default.
        trials: number of variants to train, instead of the budget's.
        cache: folder of records shared between studies.
        trainer: trains and evaluates codecs; ``CodecTrainer`` by default.

    Raises:
        LabError: images or an image metric's weights are missing, trainings minimise a distortion
            other than the squared error, or the baseline exceeds a constraint or lacks a metric
            that variants are judged by.
    """
    if trials is not None:
        if space.enumerated:
            raise ConfigError(
                f"trials = {trials}: this space trains all its variants; leave it out"
            )
        if trials < 1:
            raise ConfigError(f"trials = {trials}: must be at least 1")
    _check_metric(space)
    images = StudyData(open_images(data, "train"), open_images(eval_data, "eval"))
    images.train.at_least(space.budget.recipe_for(space.seed).crop)
    space = resolved(space, len(images.evaluation))
    check_requested(space.requested)
    variants = Variants(space)
    _check_baseline(variants)
    folder = Path("runs") / space.name if out is None else out
    return StudyContext(
        variants=variants,
        data=images,
        out=folder,
        storage=storage or sqlite_url(folder / DATABASE),
        name=study_name(folder),
        trainer=trainer or CodecTrainer(images, space.requested),
        trials=trials or space.budget.trials or 1,
        cache=cache,
    )


def _check_baseline(variants: Variants) -> None:
    """Raise ConfigError if the always trained baseline lacks a metric or exceeds a constraint."""
    baseline = variants.baseline()
    variants.check_defined(baseline)
    over = variants.exceeded(baseline)
    if over:
        bounds = ", ".join(f"{name} = {bound:g}" for name, (_, bound) in over.items())
        has = ", ".join(f"{name} = {value:.6g}" for name, (value, _) in over.items())
        raise ConfigError(
            f"constraints: {bounds}, but the baseline {baseline.config.name} has {has}, and the "
            "baseline is always trained. Relax the bound, or choose another base."
        )


def _check_metric(space: Space) -> None:
    """Raise ConfigError if trainings minimise a distortion other than the one studies compare."""
    metric = space.budget.recipe_for(space.seed).metric
    if metric != "mse":
        raise ConfigError(
            f"budget.changes: metric = {metric}: a study compares rates, PSNRs and costs of the "
            "squared error, which such trainings do not minimise. Leave metric out (objectives may "
            "include ms_ssim_db and bpp), or train single codecs with tcm-lab train --metric."
        )

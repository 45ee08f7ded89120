"""Measurement of a recipe's noise between seeds and images, from the records of studies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from statistics import fmean
from typing import TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from tcm_lab.errors import LabError
from tcm_lab.evaluation import bd_rate, lagrangian_percent
from tcm_lab.study.estimators import Comparison, Train
from tcm_lab.study.estimators.middles import image_costs
from tcm_lab.study.estimators.paired_curve import paired_curve, paired_rows
from tcm_lab.study.noise import FEWEST, Changes, Noise, changes_of, design_of
from tcm_lab.study.record import TrialRecord, baseline_of

_Array = NDArray[np.float64]
_T = TypeVar("_T")
Pairs = Mapping[int, tuple[TrialRecord, TrialRecord]]
"""The baseline's training and a variant's, by seed."""


def noise_of_studies(studies: Iterable[Sequence[TrialRecord]]) -> list[Noise]:
    """Return the noise of each recipe and baseline, over all studies that share both.

    Args:
        studies: records of each study. Trainings shared by several studies count once; records of
            estimators other than ``train`` are skipped.

    Raises:
        LabError: as `measure_noise`.
    """
    pooled: dict[str, dict[str, TrialRecord]] = {}
    for study in studies:
        records = _trained(study)
        base = baseline_of(records)
        images = base.evaluation.data_fingerprint
        recipe = base.recipe.model_dump_json(exclude={"seed"})
        own = pooled.setdefault(f"{base.fingerprint} {images} {recipe}", {})
        own |= {record.identity: record for record in records}
    return [noise for own in pooled.values() for noise in noise_by_changes([*own.values()])]


def noise_by_changes(records: Sequence[TrialRecord]) -> list[Noise]:
    """Return the noise of variants that change only the transforms, and that of the others.

    Raises:
        LabError: as `measure_noise`.
    """
    base = baseline_of(records).config
    found = []
    for changes in get_args(Changes):
        kind = [r for r in records if r.is_baseline or changes_of([r.config], base) == changes]
        with suppress(LabError):  # none of this kind, or none with two seeds
            found.append(measure_noise(kind))
    return found or [measure_noise(records)]


def measure_noise(records: Sequence[TrialRecord]) -> Noise:
    """Measure a recipe's noise from the trainings of one study.

    Raises:
        LabError: no variant has two seeds in common with the baseline, or only one image was coded.
    """
    complete = [record for record in _trained(records) if record.state == "complete"]
    # A record's own seed counts from its study's first one.
    seeds = {r.recipe.seed: r for r in complete if r.is_baseline}
    groups: dict[str, dict[int, TrialRecord]] = {}
    for record in complete:
        if not record.is_baseline and record.recipe.seed in seeds:
            groups.setdefault(record.fingerprint, {})[record.recipe.seed] = record
    variants = [
        {seed: (seeds[seed], own) for seed, own in sorted(group.items())}
        for group in groups.values()
        if len(group) >= FEWEST
    ]
    if not variants:
        raise LabError(
            "no variant was trained with two of the baseline's seeds, which measuring noise needs. "
            "Train an ablation with budget.seeds of 2 or more."
        )
    base = next(iter(seeds.values()))
    if len(base.evaluation.points[0].images) < FEWEST:
        raise LabError(
            "the study coded one image, but measuring the variation between images needs two or "
            "more. Give them with --eval-data."
        )
    costs = _by_seed(_cost_percent, variants)
    seed_sd, freedom = _between_seeds(costs)
    by_image = _by_seed(_image_percents, variants)
    between = [np.mean([*each.values()], axis=0) for each in by_image]
    return Noise(
        recipe=base.recipe.name,
        steps=base.recipe.steps,
        base=base.config["name"].partition(" ")[0],  # before fields were overridden
        design=design_of(base.config),
        variants=len(variants),
        seeds=min(map(len, variants)),
        images=len(between[0]),
        freedom=freedom,
        seed_sd=seed_sd,
        seed_sd_bd=_sd_of(_bd_percent, variants),
        seed_sd_loss=_sd_of(_loss_percent, variants),
        image_sd=math.sqrt(np.var(between, axis=1, ddof=1).mean()),
        spread=float(np.std([fmean(c.values()) for c in costs], ddof=1)) if costs[1:] else 0.0,
        changes=changes_of(
            (own.config for each in variants for _, own in each.values()), base.config
        ),
    )


def _trained(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    return [record for record in records if record.estimator == Train()]


def _between_seeds(differences: Sequence[Mapping[int, float]]) -> tuple[float, int]:
    """Return how much the difference of two codecs varies between seeds.

    A seed shifts all codecs together, and each codec individually. The individual part is the
    residual of a two-way layout, codecs by seeds, in which the baseline is one of the codecs: the
    peculiarities of its few trainings are part of every difference, and must not count in each.

    Args:
        differences: each variant's differences from the baseline, by seed.

    Returns:
        The standard deviation of a difference, and its degrees of freedom.
    """
    baseline = dict.fromkeys(sorted({seed for each in differences for seed in each}), 0.0)
    columns = {seed: place for place, seed in enumerate(baseline)}
    cells = [
        (codec, columns[seed], value)
        for codec, each in enumerate([baseline, *differences])
        for seed, value in each.items()
    ]
    codecs, seeds, values = map(np.array, zip(*cells, strict=True))
    design = np.hstack([np.eye(codecs.max() + 1)[codecs], np.eye(len(columns))[seeds]])
    fitted, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    freedom = len(values) - int(rank)
    residuals = values - design @ fitted
    return math.sqrt(2 * float(residuals @ residuals) / freedom), freedom


def _by_seed(
    difference: Callable[[TrialRecord, TrialRecord], _T], variants: Iterable[Pairs]
) -> list[dict[int, _T]]:
    """Return each variant's difference from the baseline, by seed."""
    return [{seed: difference(*pair) for seed, pair in each.items()} for each in variants]


def _sd_of(
    difference: Callable[[TrialRecord, TrialRecord], float], variants: Iterable[Pairs]
) -> float | None:
    """Return the standard deviation of a difference between seeds; None if a pair lacks it."""
    with suppress(LabError):
        return _between_seeds(_by_seed(difference, variants))[0]
    return None


def _cost_percent(base: TrialRecord, own: TrialRecord) -> float:
    return lagrangian_percent(base.evaluation, own.evaluation, lambdas=base.lambdas)


def _bd_percent(base: TrialRecord, own: TrialRecord) -> float:
    return bd_rate(base.evaluation.curve(), own.evaluation.curve()).percent


def _loss_percent(base: TrialRecord, own: TrialRecord) -> float:
    """Return the paired difference of training losses over the last steps."""
    return paired_curve(paired_rows(Comparison([own], [base]))).last.value


def _image_percents(base: TrialRecord, own: TrialRecord) -> _Array:
    """Return how far each image's share of the cost is above the baseline's, in percent, (N,)."""
    before, after = (image_costs(each.evaluation, base.lambdas) for each in (base, own))
    differences = (after - before) / before.mean(axis=1, keepdims=True)
    percents: _Array = 100 * differences.mean(axis=0)
    return percents

"""How finely a budget resolves: what a recipe's seeds and images vary by, and what follows.

The differences of a study's variants from its baseline vary with the seed, though both sides of
each share their random numbers, and with the image. Both variations are properties of the recipe
and of what the variants change: codecs that share their entropy model also share how it starts, and
differ less by chance than others. Measured once, by training some variants with several seeds, they
say before a study which difference it can tell from zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field

from tcm_lab._utils import Frozen
from tcm_lab._utils.yaml import read_yaml
from tcm_lab.errors import ConfigError, LabError, one_of
from tcm_lab.evaluation import bd_rate, lagrangian_percent
from tcm_lab.stats import NORMAL, student_factor
from tcm_lab.study.alone import options_alone
from tcm_lab.study.estimators import Comparison, Train
from tcm_lab.study.estimators.linear_phase import BEYOND_LINEAR_PHASE
from tcm_lab.study.estimators.middles import image_costs
from tcm_lab.study.estimators.paired_curve import paired_curve, paired_rows
from tcm_lab.study.record import TrialRecord, baseline_of
from tcm_lab.study.space import Space
from tcm_lab.training import RECIPES, Recipe, get_recipe

_NEAR = 1.5  # noise at so many times the steps, or as many fewer, still speaks for a budget
_FEWEST = 2
_MOST_SEEDS = 100
_Array = NDArray[np.float64]
_T = TypeVar("_T")
_MEASURED = files("tcm_lab.study") / "noise.yaml"

Changes = Literal["transforms", "any"]
"""What variants change of the baseline: g_a, g_s and the shortcut alone, or any part."""


class Noise(Frozen):
    """What differences between variants vary by, under one recipe, in percent of Lagrangian cost.

    Attributes:
        recipe: its name.
        steps: of each training.
        base: the baseline.
        variants: how many were compared with it.
        seeds: trainings of each.
        images: number of evaluation images, 2 or more.
        freedom: degrees of freedom by which the variation between seeds is known.
        seed_sd: standard deviation between seeds of the difference of two codecs, the baseline
            being one like the others.
        seed_sd_bd: the same of BD-rates.
        seed_sd_loss: the same of paired training losses over the last steps.
        image_sd: standard deviation between images of that difference.
        spread: standard deviation between the variants' mean differences.
        changes: what the variants changed.
    """

    recipe: str
    steps: int
    base: str
    variants: int
    seeds: int
    images: int = Field(ge=2)
    freedom: int = Field(ge=1)
    seed_sd: float = Field(ge=0)
    seed_sd_bd: float | None = Field(default=None, ge=0)
    seed_sd_loss: float | None = Field(default=None, ge=0)
    image_sd: float = Field(ge=0)
    spread: float = Field(ge=0)
    changes: Changes = "any"

    def widened(self, sd: float) -> float:
        """Return one of its standard deviations between seeds as it counts in an interval.

        It is larger the fewer degrees of freedom it is known by: Student's distribution in terms
        of the normal one.
        """
        return student_factor(self.freedom) * sd

    def resolution(self, seeds: int, images: int) -> float:
        """Return half the width of a difference's 95 % interval, in percent.

        A true difference of that size is found half of the time.
        """
        of_seeds = NORMAL * self.widened(self.seed_sd) / math.sqrt(seeds)
        return math.hypot(of_seeds, self._of_images(images))

    def seeds_for(self, resolution: float, images: int) -> int | None:
        """Return how many seeds resolve so many percent, or None if no number of them does."""
        left = resolution**2 - self._of_images(images) ** 2
        if left <= 0:
            return None
        of_one = NORMAL * self.widened(self.seed_sd)
        return max(1, math.ceil(of_one**2 / left - 1e-9))

    def _of_images(self, images: int) -> float:
        """Return the half-width that so few images leave, by Student's distribution."""
        if images < _FEWEST:
            return math.inf
        from scipy.special import stdtrit

        return float(stdtrit(images - 1, 0.975)) * self.image_sd / math.sqrt(images)


def noise_of_studies(studies: Iterable[Sequence[TrialRecord]]) -> list[Noise]:
    """Return the noise of each recipe and baseline, over all studies that have both in common.

    Args:
        studies: the records of each; trainings that several share count once.

    Raises:
        LabError: as `measure_noise`.
    """
    pooled: dict[str, dict[str, TrialRecord]] = {}
    for records in studies:
        base = baseline_of(records)
        images = base.evaluation.data_fingerprint
        recipe = base.recipe.model_dump_json(exclude={"seed"})
        own = pooled.setdefault(f"{base.fingerprint} {images} {recipe}", {})
        own |= {record.identity: record for record in records}
    return [noise for own in pooled.values() for noise in noise_by_changes([*own.values()])]


def noise_by_changes(records: Sequence[TrialRecord]) -> list[Noise]:
    """Return the noise of variants that change the transforms alone, and that of the others.

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
    """Return what the trainings of one study say about its recipe's noise.

    Raises:
        LabError: no two variants have two seeds in common, or only one image was coded.
    """
    complete = [r for r in records if r.state == "complete" and r.estimator == Train()]
    seeds = {r.seed: r for r in complete if r.is_baseline}
    groups: dict[str, dict[int, TrialRecord]] = {}
    for record in complete:
        if not record.is_baseline and record.seed in seeds:
            groups.setdefault(record.fingerprint, {})[record.seed] = record
    groups = {name: group for name, group in groups.items() if len(group) >= _FEWEST}
    if not groups:
        raise LabError(
            "no variant was trained with two of the baseline's seeds: noise is what varies between "
            "them. Train an ablation with budget.seeds of 2 or more."
        )
    base = next(iter(seeds.values()))
    if len(base.evaluation.points[0].images) < _FEWEST:
        raise LabError(
            "the study coded one image: what varies from image to image needs two. Name a folder "
            "of more by --eval-data."
        )
    costs = _by_seed(_cost_percent, seeds, groups.values())
    seed_sd, freedom = _between_seeds(costs)
    by_image = _by_seed(_image_percents, seeds, groups.values())
    between = [np.mean([*each.values()], axis=0) for each in by_image]
    return Noise(
        recipe=base.recipe.name,
        steps=base.recipe.steps,
        base=_design(base.config["name"]),
        variants=len(groups),
        seeds=min(len(group) for group in groups.values()),
        images=len(between[0]),
        freedom=freedom,
        seed_sd=seed_sd,
        seed_sd_bd=_sd_of(_bd_percent, seeds, groups.values()),
        seed_sd_loss=_sd_of(_loss_percent, seeds, groups.values()),
        image_sd=_pooled_sd(between),
        spread=float(np.std([fmean(c.values()) for c in costs], ddof=1)) if costs[1:] else 0.0,
        changes=changes_of((next(iter(g.values())).config for g in groups.values()), base.config),
    )


def changes_of(variants: Iterable[Mapping[str, Any]], base: Mapping[str, Any]) -> Changes:
    """Return what configurations, as they are in records, change of the base's."""

    def rest(config: Mapping[str, Any]) -> dict[str, Any]:
        return {name: part for name, part in config.items() if name not in BEYOND_LINEAR_PHASE}

    return "transforms" if all(rest(variant) == rest(base) for variant in variants) else "any"


def noise_between(own: TrialRecord, other: TrialRecord) -> Noise | None:
    """Return the measured noise of a codec's difference from the baseline, trained alike."""
    changes = changes_of([own.config], other.config)
    return noise_of(other.recipe, changes=changes, base=_design(other.config["name"]))


def noise_in(space: Space) -> Noise | None:
    """Return the noise to expect of the differences in a space: its baseline's, or another's."""
    recipe, changes = space.budget.recipe_for(space.seed), _changes_in(space)
    own = noise_of(recipe, changes=changes, base=_design(space.baseline.name))
    return own or noise_of(recipe, changes=changes)


def _design(name: str) -> str:
    """Return what a configuration was called before fields were overridden."""
    return name.partition(" ")[0]


def _changes_in(space: Space) -> Changes:
    base = space.baseline
    options = (config for _, _, config in options_alone(space.axes, base))
    return changes_of((o.model_dump(mode="json") for o in options), base.model_dump(mode="json"))


def _between_seeds(differences: Sequence[Mapping[int, float]]) -> tuple[float, int]:
    """Return how much the difference of two codecs varies from seed to seed, and how well known.

    A seed moves all codecs together, and each by something of its own. The own part is what is
    left of a two-way layout, codecs by seeds, with the baseline as one of the codecs: what is
    peculiar to its few trainings is in every difference from it, and must not count in each.

    Args:
        differences: by seed, each variant's from the baseline.

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
    left = values - design @ fitted
    return math.sqrt(2 * float(left @ left) / freedom), freedom


def _by_seed(
    difference: Callable[[TrialRecord, TrialRecord], _T],
    base: Mapping[int, TrialRecord],
    groups: Iterable[Mapping[int, TrialRecord]],
) -> list[dict[int, _T]]:
    """Return how each variant differs from the baseline, by seed."""
    return [{s: difference(base[s], own) for s, own in sorted(g.items())} for g in groups]


def _sd_of(
    difference: Callable[[TrialRecord, TrialRecord], float],
    base: Mapping[int, TrialRecord],
    groups: Iterable[Mapping[int, TrialRecord]],
) -> float | None:
    """Return how much a difference varies between seeds; None where some pair does not have it."""
    try:
        found = _by_seed(difference, base, groups)
    except LabError:
        return None
    return _between_seeds(found)[0]


def _cost_percent(base: TrialRecord, own: TrialRecord) -> float:
    return lagrangian_percent(base.evaluation, own.evaluation, lambdas=base.lambdas)


def _bd_percent(base: TrialRecord, own: TrialRecord) -> float:
    return bd_rate(base.evaluation.curve(), own.evaluation.curve()).percent


def _loss_percent(base: TrialRecord, own: TrialRecord) -> float:
    """Return the paired difference of training losses over the last steps."""
    return paired_curve(paired_rows(Comparison([own], [base]))).last.value


def _image_percents(base: TrialRecord, own: TrialRecord) -> _Array:
    """Return by how many percent each image's share of the cost is above the baseline's, (N,)."""
    before, after = (image_costs(each.evaluation, base.lambdas) for each in (base, own))
    apart = (after - before) / before.mean(axis=1, keepdims=True)
    share: _Array = 100 * apart.mean(axis=0)
    return share


def _pooled_sd(groups: Iterable[Sequence[float]]) -> float:
    """Return the standard deviation within groups, each around its own mean."""
    arrays = [np.asarray(group, dtype=float) for group in groups]
    squares = sum(float(((array - array.mean()) ** 2).sum()) for array in arrays)
    return math.sqrt(squares / sum(len(array) - 1 for array in arrays))


@cache
def known_noise(path: Path | None = None) -> tuple[Noise, ...]:
    """Return the noise that was measured for recipes: by us, or what a file of your own holds.

    Raises:
        LabError: the file does not hold a list of such measurements.
    """
    source = path or _MEASURED
    tree = read_yaml(source)
    entries = tree.get("noise")
    if not isinstance(entries, list):
        raise LabError(f"{source}: 'noise' must be a list; tcm-lab noise --out writes it")
    return tuple(Noise.parse(entry, f"{source}: noise.{i}: ") for i, entry in enumerate(entries))


def noise_of(
    recipe: Recipe,
    known: Sequence[Noise] | None = None,
    *,
    changes: Changes = "any",
    base: str | None = None,
) -> Noise | None:
    """Return the measured noise that speaks for a recipe: its own, at a similar number of steps.

    That of any change speaks for changes of the transforms, too, where these were not measured.

    Args:
        recipe: of the trainings.
        known: what was measured; by default what the package holds.
        changes: what the variants change.
        base: the baseline; by default, noise of any speaks.
    """
    if recipe.name not in RECIPES:
        return None
    fixed = {"steps", "seed", "lambdas"}  # whatever else was changed makes another recipe of it
    if recipe.model_dump(exclude=fixed) != get_recipe(recipe.name).model_dump(exclude=fixed):
        return None
    known = known_noise() if known is None else known
    own = [n for n in known if n.recipe == recipe.name and base in (None, n.base)]
    own = [n for n in own if n.changes == changes] or [n for n in own if n.changes == "any"]

    def distance(noise: Noise) -> float:
        return abs(math.log(noise.steps / recipe.steps))

    nearest = min(own, key=distance, default=None)
    return nearest if nearest and distance(nearest) <= math.log(_NEAR) else None


def noise_yaml(noises: Sequence[Noise]) -> str:
    """Return measurements as a file that ``known_noise`` reads."""
    tree = {"noise": [noise.model_dump(mode="json", exclude_none=True) for noise in noises]}
    text: str = yaml.safe_dump(tree, sort_keys=False, width=100)
    return text


def resolved(space: Space, images: int) -> Space:
    """Return a space whose seeds, and steps where it leaves them out, give its resolution.

    Args:
        space: what is searched; returned as it is where it asks for no resolution.
        images: number of evaluation images.

    Raises:
        ConfigError: the recipe's noise was not measured, or no number of seeds is enough.
    """
    budget, wanted = space.budget, space.budget.resolution
    if wanted is None:
        return space
    own_recipe = [n for n in known_noise() if n.recipe == budget.recipe and not budget.changes]
    known = [n for n in own_recipe if n.changes in ("any", _changes_in(space))]
    if budget.steps is not None:
        own = noise_in(space)
        known = [own] if own is not None else []
    where = f"budget.resolution = {wanted:g}"
    if not known:
        measured = one_of(f"{name} was" for name in sorted({n.recipe for n in known_noise()}))
        raise ConfigError(
            f"{where}: the noise of recipe {budget.recipe} was not measured with these settings "
            f"({measured}); give seeds instead, or measure it with tcm-lab noise"
        )
    steps = {n: budget.steps or n.steps for n in known}
    seeds = {n: count for n in known if (count := n.seeds_for(wanted, images)) is not None}
    if not seeds or min(seeds.values()) > _MOST_SEEDS:
        best = min(n.resolution(_MOST_SEEDS, images) for n in known)
        raise ConfigError(
            f"{where}: {images} images and {_MOST_SEEDS} seeds tell {best:.2g} % at best; give "
            "--eval-data with more images, or a coarser resolution"
        )
    chosen = min(seeds, key=lambda n: seeds[n] * steps[n])
    changes = {"seeds": seeds[chosen], "steps": steps[chosen], "resolution": None}
    return space.model_copy(update={"budget": budget.model_copy(update=changes)})

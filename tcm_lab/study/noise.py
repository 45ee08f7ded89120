"""Measured noise of recipes between seeds and images, and the resolution of budgets.

A variant's difference from the baseline varies with the seed, although both share their random
numbers, and with the image. Both variations depend on the recipe and on what the variants change:
codecs with the same entropy model also share its initial weights, and differ less by chance than
others. Measured once, by training some variants with several seeds, the noise shows in advance
which differences a study can tell from zero.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tcm_lab._utils import Frozen
from tcm_lab._utils.yaml import read_yaml, to_yaml
from tcm_lab.codec import VariantConfig
from tcm_lab.errors import ConfigError, LabError, one_of
from tcm_lab.stats import NORMAL, student_factor
from tcm_lab.study.alone import options_alone
from tcm_lab.study.estimators.linear_phase import BEYOND_LINEAR_PHASE
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.space import Space
from tcm_lab.training import RECIPES, Recipe, get_recipe

_NEAR = 1.5  # noise measured at up to this many times more or fewer steps applies to a budget
FEWEST = 2  # images, or seeds, that show a variation
_MOST_SEEDS = 100
_MEASURED = files("tcm_lab.study") / "noise.yaml"

Changes = Literal["transforms", "any"]
"""What variants change in the baseline: only g_a, g_s and the shortcut, or any part."""


class Noise(Frozen):
    """Noise of differences between variants under one recipe, in percent of Lagrangian cost.

    Attributes:
        recipe: name of the recipe.
        steps: steps of each training.
        base: name of the baseline.
        design: fingerprint of the baseline, as `design_of` returns it.
        variants: number of variants compared with the baseline.
        seeds: number of trainings of each variant.
        images: number of evaluation images, 2 or more.
        freedom: degrees of freedom of the variation between seeds.
        seed_sd: standard deviation between seeds of the difference of two codecs, where the
            baseline counts as a codec like the others.
        seed_sd_bd: the same for BD-rates.
        seed_sd_loss: the same for paired training losses over the last steps.
        image_sd: standard deviation between images of the difference of two codecs.
        spread: standard deviation between the variants' mean differences.
        changes: what the variants changed.
    """

    recipe: str
    steps: int
    base: str
    design: str
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
        """Return a standard deviation between seeds, widened for use in a normal interval.

        The fewer the degrees of freedom, the larger the factor, by Student's distribution.
        """
        return student_factor(self.freedom) * sd

    def resolution(self, seeds: int, images: int) -> float:
        """Return half the width of a difference's 95 % interval, in percent.

        A true difference of that size is detected half of the time.
        """
        of_seeds = NORMAL * self.widened(self.seed_sd) / math.sqrt(seeds)
        return math.hypot(of_seeds, self._of_images(images))

    def seeds_for(self, resolution: float, images: int) -> int | None:
        """Return the number of seeds needed for a resolution, or None if no number is enough."""
        remaining = resolution**2 - self._of_images(images) ** 2
        if remaining <= 0:
            return None
        of_one = NORMAL * self.widened(self.seed_sd)
        return max(1, math.ceil(of_one**2 / remaining - 1e-9))

    def _of_images(self, images: int) -> float:
        """Return the half-width due to the number of images, by Student's distribution."""
        if images < FEWEST:
            return math.inf
        from scipy.special import stdtrit

        return float(stdtrit(images - 1, 0.975)) * self.image_sd / math.sqrt(images)


def changes_of(variants: Iterable[Mapping[str, Any]], base: Mapping[str, Any]) -> Changes:
    """Return what variants change in the base, from configurations as stored in records."""

    def rest(config: Mapping[str, Any]) -> dict[str, Any]:
        return {name: part for name, part in config.items() if name not in BEYOND_LINEAR_PHASE}

    return "transforms" if all(rest(variant) == rest(base) for variant in variants) else "any"


def noise_between(
    own: TrialRecord, other: TrialRecord, *, design: str | None = None
) -> Noise | None:
    """Return the measured noise of the difference of two codecs trained in the same way.

    Args:
        own: a training of one codec.
        other: a training of the other one.
        design: `design_of` the baseline of their study, by default of ``other``.
    """
    changes = changes_of([own.config], other.config)
    return noise_of(other.recipe, changes=changes, design=design or design_of(other.config))


def noise_in(space: Space) -> Noise | None:
    """Return the noise expected in a space: measured for its baseline, or else for another one."""
    recipe, changes = space.budget.recipe_for(space.seed), _changes_in(space)
    own = noise_of(recipe, changes=changes, design=design_in(space))
    return own or noise_of(recipe, changes=changes)


def design_of(config: Mapping[str, Any]) -> str:
    """Return the fingerprint of a configuration as stored in a record, whatever its rate levels.

    It is empty if the configuration cannot be read, for lack of a user's layers.
    """
    return _design(json.dumps(config, sort_keys=True))


@lru_cache(maxsize=256)
def _design(config: str) -> str:
    with suppress(ConfigError):
        return VariantConfig.parse(json.loads(config)).override({"rate_levels": 0}).fingerprint
    return ""


def design_in(space: Space) -> str:
    """Return `design_of` a space's baseline."""
    return design_of(space.baseline.model_dump(mode="json"))


def _changes_in(space: Space) -> Changes:
    base = space.baseline
    options = (config for _, _, config in options_alone(space.axes, base))
    return changes_of((o.model_dump(mode="json") for o in options), base.model_dump(mode="json"))


@cache
def known_noise(path: Path | None = None) -> tuple[Noise, ...]:
    """Return the measured noise of recipes: the package's, or that in a file of your own.

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
    design: str | None = None,
) -> Noise | None:
    """Return the noise of a recipe that was measured at a similar number of steps, or None.

    Noise of any changes is used for changes of the transforms if those were not measured.

    Args:
        recipe: recipe of the trainings.
        known: measurements to choose from; by default the package's.
        changes: what the variants change.
        design: the baseline's `design_of`; by default, that of any baseline.
    """

    def distance(noise: Noise) -> float:
        return abs(math.log(noise.steps / recipe.steps))

    own = _at_any_steps(recipe, known_noise() if known is None else known, changes, design)
    nearest = min(own, key=distance, default=None)
    return nearest if nearest and distance(nearest) <= math.log(_NEAR) else None


def _at_any_steps(
    recipe: Recipe, known: Sequence[Noise], changes: Changes, design: str | None
) -> list[Noise]:
    """Return the noise of a recipe, measured at any number of steps."""
    if recipe.name not in RECIPES:
        return []
    free = {"steps", "seed", "lambdas"}  # any other change makes it a different recipe
    if recipe.model_dump(exclude=free) != get_recipe(recipe.name).model_dump(exclude=free):
        return []
    own = [n for n in known if n.recipe == recipe.name and design in (None, n.design)]
    return [n for n in own if n.changes == changes] or [n for n in own if n.changes == "any"]


def noise_yaml(noises: Sequence[Noise]) -> str:
    """Return measurements as the text of a file that ``known_noise`` reads."""
    tree = {"noise": [noise.model_dump(mode="json", exclude_none=True) for noise in noises]}
    return to_yaml(tree)


def resolved(space: Space, images: int) -> Space:
    """Return a space with the seeds, and the steps if left out, that its resolution requires.

    Args:
        space: the search space; returned unchanged if it asks for no resolution.
        images: number of evaluation images.

    Raises:
        ConfigError: the recipe's noise was not measured, or no number of seeds is enough.
    """
    budget, resolution = space.budget, space.budget.resolution
    if resolution is None:
        return space
    if budget.steps is None:
        conditions = budget.recipe_for(space.seed), known_noise(), _changes_in(space)
        known = _at_any_steps(*conditions, design_in(space)) or _at_any_steps(*conditions, None)
    else:
        own = noise_in(space)
        known = [own] if own is not None else []
    where = f"budget.resolution = {resolution:g}"
    if not known:
        measured = one_of(f"{name} was" for name in sorted({n.recipe for n in known_noise()}))
        raise ConfigError(
            f"{where}: the noise of recipe {budget.recipe} was not measured with these settings "
            f"({measured}); give seeds instead, or measure it with tcm-lab noise"
        )
    steps = {n: budget.steps or n.steps for n in known}
    counts = ((n, n.seeds_for(resolution, images)) for n in known)
    seeds = {n: count for n, count in counts if count is not None and count <= _MOST_SEEDS}
    if not seeds:
        best = min(n.resolution(_MOST_SEEDS, images) for n in known)
        raise ConfigError(
            f"{where}: {images} images and {_MOST_SEEDS} seeds resolve {best:.2g} % at best; give "
            "--eval-data with more images, or a coarser resolution"
        )
    chosen = min(seeds, key=lambda n: seeds[n] * steps[n])
    changes = {"seeds": seeds[chosen], "steps": steps[chosen], "resolution": None}
    return space.model_copy(update={"budget": budget.model_copy(update=changes)})

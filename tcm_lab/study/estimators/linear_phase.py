"""``linear-phase``: trains the entropy model alone, on the latent of the linear shortcuts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tcm_lab import codec as codecs
from tcm_lab import training
from tcm_lab._utils.digests import digest
from tcm_lab._utils.files import write_atomically
from tcm_lab.codec import VariantConfig
from tcm_lab.errors import ConfigError, one_of
from tcm_lab.study.estimators.base import (
    Estimate,
    Estimator,
    Outcome,
    Task,
    Watch,
    check_one_set_of_weights,
    register_estimator,
)
from tcm_lab.study.estimators.middles import MiddleCost, middle_cost, sd_over_images
from tcm_lab.study.folder import read_kept
from tcm_lab.training import RECIPES, Recipe

if TYPE_CHECKING:
    from tcm_lab.study.context import StudyContext

BEYOND_LINEAR_PHASE = {"name", "g_a", "g_s", "shortcut"}
"""Fields of a codec that do not affect its linear phase."""


@register_estimator("linear-phase")
class LinearPhase(Estimator):
    """Trains only a variant's linear phase, and evaluates the resulting linear codec.

    Evaluations use estimated bits on the centre crop of each image. Variants with the same entropy
    model and hyper transforms share one linear phase, and tie exactly.

    Attributes:
        steps: updates of the phase, instead of the recipe's ``linear_steps``.
        crop: side of the centre crop, in pixels.
    """

    type: str = "linear-phase"
    bias = "sees only the entropy model and the hyper transforms: variants that agree there tie"
    over = "images"
    baseline_first = True

    steps: Annotated[int, Field(gt=0, le=10**9)] | None = None
    crop: Annotated[int, Field(gt=0, le=2**16)] = 256

    def check(self, base: VariantConfig, recipe: Recipe) -> None:
        """Refuse a base or recipe without a linear phase, or rates with separate weights."""
        check_one_set_of_weights(self.type, base)
        if not recipe.linear_steps:
            with_one = one_of(name for name, known in RECIPES.items() if known.linear_steps)
            raise ConfigError(
                f"estimator linear-phase: recipe {recipe.name} has no linear phase; use "
                f"{with_one}, or set linear_steps and start: linear in budget.changes"
            )
        if base.shortcut in ("none", "wavelet"):
            raise ConfigError(
                f"estimator linear-phase: the base has shortcut {base.shortcut}; it needs a linear "
                "path such as shortcut: patch"
            )

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return the recipe with only the steps of the phase."""
        steps = recipe.linear_steps if self.steps is None else self.steps
        return recipe.changed(steps=steps, linear_steps=steps)

    def identity(self) -> dict[str, Any]:
        """Return all options but ``steps``, which the recipe contains."""
        return self.model_dump(mode="json", exclude={"steps"})

    def run(self, task: Task, context: StudyContext, watch: Watch) -> Outcome:
        """Run the phase and evaluate it, or reuse the cost of a variant that shares it."""
        cost = self._cost(task, context, watch)
        baseline = self._cost(context.baseline_task(task, self), context, watch)
        differences = cost.shares - baseline.shares
        estimate = Estimate(log_cost=cost.log_cost, sd_percent=sd_over_images(differences))
        return Outcome(estimate=estimate, steps=task.recipe.linear_steps)

    def _cost(self, task: Task, context: StudyContext, watch: Watch) -> MiddleCost:
        kept = task.directory.parent / f"linear-cost-{self._key(task, context)}.json"
        cost = read_kept(kept, MiddleCost)
        if cost is None:
            cost = self._evaluate(task, context, watch)
            write_atomically(kept, cost.model_dump_json() + "\n")
        return cost

    def _evaluate(self, task: Task, context: StudyContext, watch: Watch) -> MiddleCost:
        recipe, data = task.recipe, context.data
        view = training.train_linear_phase(
            codecs.build(task.config, seed=recipe.seed),
            recipe,
            data.crops(recipe),
            directory=task.directory,
            cache=task.directory.parent,
            on_progress=lambda progress: watch.progress(0, progress.text),
        )
        return middle_cost(view, data.evaluation, recipe.lambdas, crop=self.crop)

    def _key(self, task: Task, context: StudyContext) -> str:
        facts = {
            "entropy": task.config.model_dump(mode="json", exclude=BEYOND_LINEAR_PHASE),
            "stride": task.config.stride,
            "recipe": task.recipe.identity(),
            "crop": self.crop,
            "data": context.data.fingerprints,
        }
        return digest(facts)

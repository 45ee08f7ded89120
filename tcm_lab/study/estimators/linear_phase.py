"""``linear-phase``: the entropy model alone, trained on the latent of the linear shortcuts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tcm_lab import codec as codecs
from tcm_lab import evaluation, training
from tcm_lab._utils.files import write_atomically
from tcm_lab.codec import VariantConfig
from tcm_lab.errors import ConfigError, one_of
from tcm_lab.evaluation import RdRecord
from tcm_lab.study.estimators.base import Estimator, Outcome, Task, Watch, register_estimator
from tcm_lab.study.folder import digest, read_kept
from tcm_lab.training import RECIPES, Recipe

if TYPE_CHECKING:
    from tcm_lab.study.context import StudyContext

BEYOND_LINEAR_PHASE = {"name", "g_a", "g_s", "shortcut"}
"""Fields of a codec that change nothing of its linear phase."""


@register_estimator("linear-phase")
class LinearPhase(Estimator):
    """Trains a variant's linear phase alone, and codes the evaluation images by what results.

    Variants that agree in the entropy model and the hyper transforms have one linear phase: they
    tie, exactly.
    """

    type: str = "linear-phase"
    bias = "sees the entropy model and the hyper transforms alone: variants that agree there tie"
    over = "the images and the seeds"

    def check(self, base: VariantConfig, recipe: Recipe) -> None:
        """Refuse what has no linear phase."""
        if not recipe.linear_steps:
            with_one = one_of(name for name, known in RECIPES.items() if known.linear_steps)
            raise ConfigError(
                f"estimator linear-phase: recipe {recipe.name} has none; take {with_one}, or set "
                "linear_steps and start: linear in budget.changes"
            )
        if base.shortcut in ("none", "wavelet"):
            raise ConfigError(
                f"estimator linear-phase: the base has shortcut {base.shortcut}; it needs a linear "
                "path such as shortcut: patch"
            )

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return the recipe with no steps but the phase's."""
        return recipe.changed(steps=recipe.linear_steps)

    def run(self, task: Task, context: StudyContext, watch: Watch) -> Outcome:
        """Run the phase and evaluate, or take the evaluation of a variant that agrees."""
        kept = task.directory.parent / f"linear-evaluation-{self._key(task, context)}.json"
        rd = read_kept(kept, RdRecord)
        if rd is None:
            rd = self._evaluate(task, context, watch)
            write_atomically(kept, rd.model_dump_json() + "\n")
        own = {"name": task.config.name, "model": task.config.model_dump(mode="json")}
        return Outcome(rd=rd.model_copy(update=own), steps=task.recipe.linear_steps)

    def _evaluate(self, task: Task, context: StudyContext, watch: Watch) -> RdRecord:
        recipe, data = task.recipe, context.data
        view = training.train_linear_phase(
            codecs.build(task.config, seed=recipe.seed),
            recipe,
            data.crops(recipe),
            directory=task.directory,
            cache=task.directory.parent,
            on_progress=lambda progress: watch.progress(0, progress.text),
        )
        return evaluation.evaluate(view, data.evaluation, name=task.config.name, recipe=recipe)

    def _key(self, task: Task, context: StudyContext) -> str:
        facts = {
            "entropy": task.config.model_dump(mode="json", exclude=BEYOND_LINEAR_PHASE),
            "stride": task.config.stride,
            "recipe": task.recipe.identity(),
            "data": context.data.fingerprints,
        }
        return digest(facts)

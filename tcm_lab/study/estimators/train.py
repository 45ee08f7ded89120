"""``train``: trains the variant itself, and codes images to bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from tcm_lab.study.estimators.base import Estimator, Outcome, Task, Watch, register_estimator

if TYPE_CHECKING:
    from tcm_lab.study.context import StudyContext
    from tcm_lab.training import Recipe


@register_estimator("train")
class Train(Estimator):
    """Trains each variant with the budget's recipe, and codes the evaluation images.

    Attributes:
        steps: steps of each training, instead of the budget's.
    """

    type: str = "train"
    bias = "says nothing about longer trainings"
    over = "the images and the seeds"
    trains = True

    steps: Annotated[int, Field(gt=0, le=10**9)] | None = None

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return the budget's recipe with this estimator's steps."""
        return recipe if self.steps is None else recipe.changed(steps=self.steps)

    def identity(self) -> dict[str, object]:
        """Return nothing: the recipe determines the result."""
        return {}

    def run(self, task: Task, context: StudyContext, watch: Watch) -> Outcome:
        """Train and evaluate."""
        return context.trainer(task, watch)

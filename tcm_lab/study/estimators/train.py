"""``train``: the variant itself is trained, and images are coded to bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tcm_lab.study.estimators.base import Estimator, Outcome, Task, Watch, register_estimator

if TYPE_CHECKING:
    from tcm_lab.study.context import StudyContext


@register_estimator("train")
class Train(Estimator):
    """Trains each variant by the budget's recipe, and codes the evaluation images."""

    type: str = "train"
    bias = "says nothing of longer trainings"
    over = "the images and the seeds"
    trains = True

    def identity(self) -> dict[str, object]:
        """Return nothing: the recipe says it all."""
        return {}

    def run(self, task: Task, context: StudyContext, watch: Watch) -> Outcome:
        """Train and evaluate."""
        return context.trainer(task, watch)

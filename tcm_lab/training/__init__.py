"""Training: recipes as data, the objective, one resumable loop, and its record."""

from tcm_lab.training.guard import DivergedError
from tcm_lab.training.loop import train
from tcm_lab.training.objective import Objective
from tcm_lab.training.progress import OnProgress, Progress, progress_line
from tcm_lab.training.recipe import RECIPES, Recipe, get_recipe
from tcm_lab.training.record import TrainingRecord
from tcm_lab.training.warm_start import warm_start

__all__ = [
    "RECIPES",
    "DivergedError",
    "Objective",
    "OnProgress",
    "Progress",
    "Recipe",
    "TrainingRecord",
    "get_recipe",
    "progress_line",
    "train",
    "warm_start",
]

"""Estimators of a variant's Lagrangian cost, from a full training to a rough guess."""

from tcm_lab.study.estimators.base import (
    ESTIMATORS,
    AnyEstimator,
    Comparison,
    Estimate,
    Estimator,
    Outcome,
    Task,
    Watch,
    register_estimator,
)
from tcm_lab.study.estimators.linear_phase import LinearPhase
from tcm_lab.study.estimators.paired_loss import Extrapolated, PairedLoss
from tcm_lab.study.estimators.stage_swap import StageSwap
from tcm_lab.study.estimators.supernet import Supernet
from tcm_lab.study.estimators.train import Train

__all__ = [
    "ESTIMATORS",
    "AnyEstimator",
    "Comparison",
    "Estimate",
    "Estimator",
    "Extrapolated",
    "LinearPhase",
    "Outcome",
    "PairedLoss",
    "StageSwap",
    "Supernet",
    "Task",
    "Train",
    "Watch",
    "register_estimator",
]

"""Evaluation: real bits and distortion on whole images, curves, and comparisons that hold."""

from tcm_lab.evaluation.anchors import evaluate_anchor
from tcm_lab.evaluation.bjontegaard_delta import BdRate, bd_psnr, bd_rate
from tcm_lab.evaluation.bootstrap import Interval, bd_rate_interval, lagrangian_interval
from tcm_lab.evaluation.curve import RdCurve, published_curve, published_curves
from tcm_lab.evaluation.lagrangian import lagrangian_cost, lagrangian_percent
from tcm_lab.evaluation.measure import evaluate
from tcm_lab.evaluation.record import ImageResult, RdPoint, RdRecord

__all__ = [
    "BdRate",
    "ImageResult",
    "Interval",
    "RdCurve",
    "RdPoint",
    "RdRecord",
    "bd_psnr",
    "bd_rate",
    "bd_rate_interval",
    "evaluate",
    "evaluate_anchor",
    "lagrangian_cost",
    "lagrangian_interval",
    "lagrangian_percent",
    "published_curve",
    "published_curves",
]

"""Where a layer stands in a transform that another project writes as one flat sequence."""

from __future__ import annotations

from tcm_lab.codec.config import TransformConfig


def flat_place(transform: TransformConfig, stage: int, block: int | None) -> int:
    """Return the index of a block of a stage, or of the stage's resampler, among all layers."""
    before = sum(_resamplers(transform, i) + transform.stages[i].depth for i in range(stage))
    return before if block is None else before + _resamplers(transform, stage) + block


def _resamplers(transform: TransformConfig, stage: int) -> int:
    """Return 1, or 0 where the stage does not resample."""
    return int(transform.stages[stage].resample.type != "none")

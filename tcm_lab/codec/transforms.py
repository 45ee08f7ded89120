"""Assembly of a transform from its configuration: stages, each a resampler, blocks, attention."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from tcm_lab.blocks import Cost, ResampleDirection
from tcm_lab.codec.config import StageConfig, TransformConfig


class Stage(nn.Module):
    """One stage; its children are named as in the configuration.

    Args:
        config: the stage.
        c_in: channels in.
        c_out: channels out.
        direction: whether the resampler shrinks or enlarges.
    """

    def __init__(
        self, config: StageConfig, c_in: int, c_out: int, direction: ResampleDirection
    ) -> None:
        super().__init__()
        self.resample = config.resample.build(c_in, c_out, direction)
        self.blocks = nn.Sequential(
            *(config.block.build(c_out, i) for i in range(config.depth) if config.block)
        )
        self.attention = config.attention.build(c_out)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Transform (B, C_in, H, W)."""
        out: Tensor = self.attention(self.blocks(self.resample(x)))
        return out


class Transform(nn.Module):
    """Stages one after the other.

    Args:
        config: the stages.
        direction: ``down`` shrinks, ``up`` enlarges.
        c_in: channels in.
        c_out: channels out.
    """

    def __init__(
        self, config: TransformConfig, direction: ResampleDirection, c_in: int, c_out: int
    ) -> None:
        super().__init__()
        self.stages = nn.Sequential()
        for stage, width in zip(config.stages, config.widths(c_out), strict=True):
            self.stages.append(Stage(stage, c_in, width, direction))
            c_in = width

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Transform (B, C_in, H, W)."""
        out: Tensor = self.stages(x)
        return out


def transform_cost(
    config: TransformConfig,
    direction: ResampleDirection,
    c_in: int,
    c_out: int,
    height: int,
    width: int,
) -> Cost:
    """Cost of a transform on an input of ``height`` x ``width``.

    Raises:
        NoFormula: a layer has no closed formula.
    """
    total = Cost()
    for stage, channels in zip(config.stages, config.widths(c_out), strict=True):
        total += stage.resample.cost(c_in, channels, direction, height, width)
        factor = stage.resample.factor
        if direction == "down":
            height, width = -(-height // factor), -(-width // factor)
        else:
            height, width = height * factor, width * factor
        if stage.block is not None:
            total += stage.depth * stage.block.cost(channels, height, width)
        total += stage.attention.cost(channels, height, width)
        c_in = channels
    return total

"""Assembly of a transform from its configuration: stages, and the linear paths beside them."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from tcm_lab.blocks import Cost, ResampleDirection
from tcm_lab.blocks.cost import conv_cost, transposed_conv_cost
from tcm_lab.blocks.wavelet import HaarLinear, haar_linear_cost
from tcm_lab.codec.config import StageConfig, TransformPlan
from tcm_lab.codec.seeds import seeded

LinearMap = nn.Conv2d | nn.ConvTranspose2d


def linear_map(c_in: int, c_out: int, factor: int, direction: ResampleDirection) -> LinearMap:
    """Build a map between patches of ``factor`` x ``factor`` positions and one position.

    Down: (B, C_in, H, W) to (B, C_out, H / factor, W / factor). Up: the other way round.
    """
    kind = nn.Conv2d if direction == "down" else nn.ConvTranspose2d
    return kind(c_in, c_out, factor, stride=factor)


class Stage(nn.Module):
    """One stage, whose children are named as in the configuration.

    A ``shortcut`` is a linear map beside the resampler.
    """

    def __init__(
        self,
        config: StageConfig,
        c_in: int,
        c_out: int,
        direction: ResampleDirection,
        *,
        shortcut: bool = False,
    ) -> None:
        super().__init__()
        factor = config.resample.factor
        self.resample = seeded(config.resample.build, c_in, c_out, direction)
        self.shortcut = seeded(
            lambda: linear_map(c_in, c_out, factor, direction) if shortcut else None
        )
        self.blocks = nn.Sequential()
        for i in range(config.depth):
            assert config.block is not None  # the configuration has checked it
            self.blocks.append(seeded(config.block.build, c_out, i))
        self.attention = config.attention.build(c_out)

    def forward(
        self, x: Float[Tensor, "b c h w"], side: Float[Tensor, "b d h2 w2"] | None = None
    ) -> Float[Tensor, "b d h2 w2"]:
        """Transform (B, C_in, H, W); ``side`` is added to the resampler's output."""
        resampled = self.resample(x)
        if self.shortcut is not None:
            resampled = resampled + self.shortcut(x)
        if side is not None:
            resampled = resampled + side
        out: Tensor = self.attention(self.blocks(resampled))
        return out


class Transform(nn.Module):
    """Stages in sequence, and a linear path beside them.

    The path is a map of whole patches, or a separate chain of wavelet steps, one beside every
    stage. In the analysis, the result of a step is added after the stage's resampler; in the
    synthesis at the stage's end, before the next resampler.
    """

    def __init__(self, plan: TransformPlan) -> None:
        super().__init__()
        config, direction, c_in, c_out, shortcut = plan
        self.direction = direction
        self.stages = nn.Sequential(
            *(
                seeded(Stage, stage, before, width, direction, shortcut=beside)
                for stage, before, width, beside in plan.stages()
            )
        )
        has_map = shortcut in ("patch", "staged")
        self.shortcut = seeded(
            lambda: linear_map(c_in, c_out, config.factor, direction) if has_map else None
        )
        self.wavelet: nn.ModuleList | None = None
        if shortcut == "wavelet":
            self.wavelet = seeded(
                lambda: nn.ModuleList(
                    HaarLinear(before, width, stage.resample.factor, direction)
                    for stage, before, width, _ in plan.stages()
                )
            )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Transform (B, C_in, H, W)."""
        if self.wavelet is not None:
            return self._beside_wavelet(x, self.wavelet)
        out: Tensor = self.stages(x)
        return out if self.shortcut is None else out + self.shortcut(x)

    @property
    def linear_path(self) -> nn.Module | None:
        """The linear path from end to end, with the same weights; None without one."""
        return self.shortcut if self.wavelet is None else nn.Sequential(*self.wavelet)

    def _beside_wavelet(self, x: Tensor, steps: nn.ModuleList) -> Tensor:
        side = x
        for stage, step in zip(self.stages, steps, strict=True):
            side = step(side)
            x = stage(x, side) if self.direction == "down" else stage(x) + side
        return x


def transform_cost(plan: TransformPlan, height: int, width: int) -> Cost:
    """Return the cost of a transform on an input of ``height`` x ``width``.

    Raises:
        NoFormula: a layer has no closed formula.
    """
    config, direction, c_in, c_out, shortcut = plan
    total = Cost()
    if shortcut in ("patch", "staged"):
        total += linear_map_cost(c_in, c_out, config.factor, direction, height, width)
    for stage, before, channels, beside in plan.stages():
        resample = stage.resample
        total += resample.cost(before, channels, direction, height, width)
        if beside:
            total += linear_map_cost(before, channels, resample.factor, direction, height, width)
        if shortcut == "wavelet":
            total += haar_linear_cost(before, channels, resample.factor, direction, height, width)
        height, width = resample.size_after(direction, height, width)
        if stage.block is not None:
            total += stage.depth * stage.block.cost(channels, height, width)
        total += stage.attention.cost(channels, height, width)
    return total


def linear_map_cost(
    c_in: int, c_out: int, factor: int, direction: ResampleDirection, height: int, width: int
) -> Cost:
    """Return the cost of a `linear_map` on an input of ``height`` x ``width``."""
    if direction == "down":
        return conv_cost(c_in, c_out, factor, height // factor, width // factor)
    return transposed_conv_cost(c_in, c_out, factor, factor, height, width)


class HyperSynthesis(nn.Module):
    """The hyper synthesis, once for each of its outputs."""

    def __init__(self, plan: Mapping[str, TransformPlan]) -> None:
        super().__init__()
        for name, transform in plan.items():
            if name.startswith("h_s."):
                self.add_module(name.removeprefix("h_s."), seeded(Transform, transform))

    def forward(self, z_hat: Float[Tensor, "b n p q"]) -> list[Tensor]:
        """Return each output on (B, N, p, q): mean's and scale's, or one for both."""
        return [transform(z_hat) for transform in self.children()]

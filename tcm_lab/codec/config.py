"""The configuration tree of a codec: frozen, validated, and explicit down to every layer.

The tree is the architecture: its names are the names of modules, and it holds no choice without
effect. Equal trees are the same codec, and different trees are different codecs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from math import lcm, prod
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tcm_lab._utils import ChannelCount, Frozen, LayerCount, RateLevels
from tcm_lab._utils.digests import digest
from tcm_lab.blocks import (
    ATTENTIONS,
    BLOCKS,
    FINGERPRINT,
    AnyAttention,
    AnyBlock,
    AnyResampler,
    ResampleDirection,
)
from tcm_lab.codec.entropy_models import ENTROPY_MODELS, EntropyModelConfig
from tcm_lab.codec.overrides import TRANSFORMS, apply_overrides, borrowed
from tcm_lab.errors import ConfigError, at, one_of

AnyEntropyModel = Annotated[
    SerializeAsAny[EntropyModelConfig],
    BeforeValidator(ENTROPY_MODELS.validate),
    Field(description="an entropy model"),
]

IMAGE_CHANNELS = 3


class StageConfig(Frozen):
    """A resampler, then ``depth`` blocks, then an attention module.

    Attributes:
        resample: how the stage changes channels and size.
        width: number of channels; left out in a transform's last stage, whose width is the
            transform's output.
        depth: number of blocks.
        block: the block; none if ``depth`` is 0.
        attention: the attention module after the blocks.
    """

    resample: AnyResampler
    width: ChannelCount | None = None
    depth: LayerCount = 0
    block: AnyBlock | None = None
    attention: AnyAttention = Field(default_factory=lambda: ATTENTIONS.parse("none"))

    @field_validator("block", mode="before")
    @classmethod
    def _drop_block_of_empty_stage(cls, block: Any, info: ValidationInfo) -> Any:
        return None if info.data.get("depth") == 0 else block

    @model_validator(mode="after")
    def _has_its_block(self) -> StageConfig:
        if self.depth and self.block is None:
            known = one_of(sorted(BLOCKS))
            raise ConfigError(f"depth = {self.depth} needs a block; known: {known}")
        return self


class TransformConfig(Frozen):
    """Stages in the order of the data's flow.

    Attributes:
        stages: the stages; all but the last give their width.
    """

    stages: Annotated[tuple[StageConfig, ...], Field(min_length=1)]

    @property
    def factor(self) -> int:
        """Factor by which the transform shrinks or enlarges the sides."""
        return prod(stage.resample.factor for stage in self.stages)


Shortcut = Literal["none", "patch", "staged", "wavelet"]


_FEWEST_CODED = 4  # symbols; for fewer, the buffer of CompressAI's coder is too small


class VariantConfig(Frozen):
    """The complete configuration of a codec.

    Attributes:
        name: name in tables.
        latent_channels: M, channels of y.
        hyper_channels: channels of z.
        rate_levels: number of learned rate levels of one set of weights; 0 for a single rate.
        shortcut: linear paths beside g_a and g_s: ``patch``, one map between an image patch and the
            M channels of its latent position; ``staged``, that map and one beside every resampler
            except each transform's last; ``wavelet``, a separate chain of Haar wavelet steps with
            projections, added at every stage (AuxT, Li et al. 2025); or ``none``, as in the
            published TCM.
        g_a: analysis transform, image to y. It and the next three may be given as the name of a
            preset that has it.
        g_s: synthesis transform, y to image.
        h_a: hyper analysis, y to z.
        h_s: hyper synthesis, z to the support of y's mean and scale.
        entropy_model: how y is predicted and coded; ``type`` is ``slices`` by default.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._/@=,+*?:{}\[\]-]*$")]
    latent_channels: ChannelCount
    hyper_channels: ChannelCount
    rate_levels: RateLevels = 0
    shortcut: Shortcut = "none"
    g_a: TransformConfig
    g_s: TransformConfig
    h_a: TransformConfig
    h_s: TransformConfig
    entropy_model: AnyEntropyModel

    @field_validator(*TRANSFORMS, mode="before")
    @classmethod
    def _of_a_preset(cls, value: Any, info: ValidationInfo) -> Any:
        return borrowed(str(info.field_name), value)

    @field_validator("rate_levels")
    @classmethod
    def _one_level_is_none(cls, levels: int) -> int:
        if levels == 1:
            raise ConfigError("rate_levels = 1 has nothing to choose from; write 0, or 2 or more")
        return levels

    @model_validator(mode="after")
    def _fits_together(self) -> VariantConfig:
        for name, plan in transform_plan(self).items():
            plan.check(name.split(".")[0])
        for name in ("latent_channels", "hyper_channels"):
            if (count := getattr(self, name)) < _FEWEST_CODED:
                raise ConfigError(
                    f"{name} = {count}: must be at least {_FEWEST_CODED}, since the entropy coder "
                    "cannot code fewer symbols, and a small image has one per channel"
                )
        for down, up in (("g_a", "g_s"), ("h_a", "h_s")):
            shrinks, enlarges = getattr(self, down).factor, getattr(self, up).factor
            if shrinks != enlarges:
                raise ConfigError(
                    f"{down} shrinks the sides {shrinks} times, but {up} enlarges them "
                    f"{enlarges} times; give both the same strides"
                )
        try:
            self.entropy_model.check(self.latent_channels)
        except ConfigError as error:
            raise ConfigError(f"entropy_model.{error}") from None
        return self

    def override(self, changes: Mapping[str, Any]) -> VariantConfig:
        """Return this configuration with dotted fields changed, validated as a whole.

        ``g_a.split`` reaches every stage of g_a that has a split; a list gives one value per such
        stage; ``g_a.stages.1.split`` reaches one; ``g_*.split`` ties g_a and g_s.

        Raises:
            ConfigError: a path or value is wrong; the message gives the nearest valid ones.
        """
        if not changes:
            return self
        return VariantConfig.parse(apply_overrides(self.model_dump(mode="json"), changes))

    @property
    def stride(self) -> tuple[int, int]:
        """Downsampling factors from the image to y and to z."""
        return self.g_a.factor, self.g_a.factor * self.h_a.factor

    @property
    def padding(self) -> int:
        """The sides of an image are padded to multiples of this number."""
        return self.g_a.factor * lcm(self.h_a.factor, self.entropy_model.stride)

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of everything but the name: equal for equal codecs."""
        tree = self.model_dump(mode="json", exclude={"name"}, context=FINGERPRINT)
        tree["entropy_model"] = self.entropy_model.canonical(self.latent_channels)
        for name in TRANSFORMS:
            tree[name]["stages"][-1]["width"] = None  # if given, it equals the transform's output
        if self.shortcut == "none":
            del tree["shortcut"]
        equal = json.loads(
            json.dumps(tree), parse_float=lambda text: float(text) + 0.0
        )  # -0.0 is 0
        return digest(equal, 12)


class TransformPlan(NamedTuple):
    """All that is needed to build a transform or count its cost."""

    config: TransformConfig
    direction: ResampleDirection
    c_in: int
    c_out: int
    shortcut: Shortcut = "none"

    def stages(self) -> Iterator[tuple[StageConfig, int, int, bool]]:
        """Yield each stage, its channels in and out, and whether a linear map runs beside it."""
        c_in, last = self.c_in, len(self.config.stages) - 1
        for i, stage in enumerate(self.config.stages):
            c_out = self.c_out if stage.width is None else stage.width
            beside = self.shortcut == "staged" and i < last and stage.resample.factor > 1
            yield stage, c_in, c_out, beside
            c_in = c_out

    def check(self, name: str) -> None:
        """Refuse numbers of channels that a layer cannot have.

        Raises:
            ConfigError: the message gives the path within ``name``.
        """
        last = len(self.config.stages) - 1
        for i, (stage, before, width, _) in enumerate(self.stages()):
            place = f"{name}.stages.{i}"
            if i < last and stage.width is None:
                raise ConfigError(f"{place}.width is missing; only the last stage may omit it")
            if i == last and width != self.c_out:
                raise ConfigError(
                    f"{place}.width = {width}, but {name} must end at {self.c_out} channels; "
                    "leave it out"
                )
            at(f"{place}.resample", stage.resample.check, before, width)
            factor = stage.resample.factor
            if self.shortcut == "wavelet" and factor.bit_count() != 1:  # not a power of two
                raise ConfigError(
                    f"shortcut = wavelet halves sides, but {place}.resample has a stride of "
                    f"{factor}; use strides of 1, 2, 4, ..., or shortcut patch"
                )
            if stage.block is not None:
                at(f"{place}.block", stage.block.check, width)
            at(f"{place}.attention", stage.attention.check, width)


def transform_plan(config: VariantConfig) -> dict[str, TransformPlan]:
    """Return the plan of each transform.

    There is one hyper synthesis for each output that the entropy model needs: ``h_s.mean`` and
    ``h_s.scale``, say.
    """
    m, n = config.latent_channels, config.hyper_channels
    return {
        "g_a": TransformPlan(config.g_a, "down", IMAGE_CHANNELS, m, config.shortcut),
        "h_a": TransformPlan(config.h_a, "down", m, n),
        **{
            f"h_s.{name}": TransformPlan(config.h_s, "up", n, channels)
            for name, channels in config.entropy_model.hyper_outputs(m).items()
        },
        "g_s": TransformPlan(config.g_s, "up", m, IMAGE_CHANNELS, config.shortcut),
    }

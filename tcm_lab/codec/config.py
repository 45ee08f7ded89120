"""The configuration tree of a codec: frozen, validated, and explicit down to every layer.

The tree is the architecture: its names are the names of modules, and a choice without effect is not
in it, so that two equal trees are the same codec and two different ones are not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from math import prod
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from tcm_lab._utils import NONE_AS_WORD, Frozen
from tcm_lab.blocks import (
    ATTENTIONS,
    BLOCKS,
    FINGERPRINT,
    RESAMPLERS,
    AttentionConfig,
    BlockConfig,
    ResampleDirection,
    ResamplerConfig,
)
from tcm_lab.codec.overrides import apply_overrides
from tcm_lab.errors import ConfigError, one_of

AnyBlock = Annotated[
    SerializeAsAny[BlockConfig], BeforeValidator(BLOCKS.parse), Field(description="a block")
]
AnyAttention = Annotated[
    SerializeAsAny[AttentionConfig],
    BeforeValidator(ATTENTIONS.parse),
    Field(description="an attention module"),
]
AnyResampler = Annotated[
    SerializeAsAny[ResamplerConfig],
    BeforeValidator(RESAMPLERS.parse),
    Field(description="a resampler"),
]

IMAGE_CHANNELS = 3


class StageConfig(Frozen):
    """A resampler, then ``depth`` blocks, then an attention module.

    Attributes:
        resample: how the stage changes channels and size.
        width: its channels; none in a transform's last stage, whose width is the transform's
            output.
        depth: how many blocks.
        block: the block; none where ``depth`` is 0.
        attention: the attention module after the blocks.
    """

    resample: AnyResampler
    width: PositiveInt | None = None
    depth: NonNegativeInt = 0
    block: AnyBlock | None = None
    attention: AnyAttention = Field(default_factory=lambda: ATTENTIONS.parse("none"))

    @model_validator(mode="before")
    @classmethod
    def _drop_block_of_empty_stage(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("depth", 0) == 0 and value.get("block"):
            return {**value, "block": None}
        return value

    @model_validator(mode="after")
    def _has_its_block(self) -> StageConfig:
        if self.depth and self.block is None:
            known = one_of(sorted(BLOCKS))
            raise ConfigError(f"depth = {self.depth} needs a block; known: {known}")
        return self


class TransformConfig(Frozen):
    """Stages in the order of the data's flow.

    Attributes:
        stages: the stages; each but the last with its width.
    """

    stages: Annotated[tuple[StageConfig, ...], Field(min_length=1)]

    @property
    def factor(self) -> int:
        """How many times the transform shrinks or enlarges the sides."""
        return prod(stage.resample.factor for stage in self.stages)


def _at(place: str, check: Any, *channels: int) -> None:
    """Run ``check``; its message gets the place as a prefix."""
    try:
        check(*channels)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None


Shortcut = Literal["none", "patch", "staged"]
Lrp = Literal["none", "before-attention", "after-attention"]


class EntropyModelConfig(Frozen):
    """The channel-wise slice entropy model (Minnen & Singh 2020; Liu et al. 2023, section 3.3).

    Attributes:
        slices: how many equal slices the latent is cut into, or each slice's width.
        support: how many earlier slices, counted from the first, each slice may see.
        attention: the module between the support and the slice networks.
        hidden: widths between the 3x3 convolutions of a slice network, GELU between; ``none``
            takes the hyper output itself as mean and scale (one slice: the hyperprior alone).
        paths: whether mean and scale are computed ``apart`` (each its own hyper synthesis,
            attention and slice networks) or ``shared``.
        lrp: latent residual prediction, and which mean support it sees: as it is
            ``before-attention`` (the paper's figure), ``after-attention`` (the authors' code),
            or ``none``.
        checkerboard: whether each slice is coded in two passes, the second of which sees the
            first one's neighbours (He et al. 2021 and 2022).
        scale_table: which scales the coder distinguishes: ``fine``, where each takes the nearest of
            256 and the estimate counts what the coder spends, or ``compressai``, where each takes
            the next larger of its 64 and bytes and estimate are those of the authors' code.
        normalised: whether the networks see the latent in units of each channel's spread, which a
            start from data measures, instead of quantisation steps.
    """

    slices: PositiveInt | Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    support: NonNegativeInt
    attention: AnyAttention = Field(default_factory=lambda: ATTENTIONS.parse("none"))
    hidden: Annotated[tuple[PositiveInt, ...] | None, NONE_AS_WORD] = (224, 128)
    paths: Literal["apart", "shared"] = "apart"
    lrp: Lrp = "after-attention"
    checkerboard: bool = False
    scale_table: Literal["fine", "compressai"] = "fine"
    normalised: bool = False

    @field_validator("slices")
    @classmethod
    def _even_is_a_count(cls, slices: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if isinstance(slices, tuple) and len(set(slices)) == 1:
            raise ConfigError(
                f"slices = {list(slices)} are equal; write their number, {len(slices)}"
            )
        return slices

    def slice_widths(self, latent_channels: int) -> tuple[int, ...]:
        """Return the width of each slice; they sum to ``latent_channels``."""
        if isinstance(self.slices, tuple):
            return self.slices
        return (latent_channels // self.slices,) * self.slices

    def seen(self, i: int) -> int:
        """Return how many earlier slices slice ``i`` sees."""
        return min(i, self.support)

    def hyper_outputs(self, latent_channels: int) -> tuple[int, ...]:
        """Return the channels of each hyper synthesis output: one, or mean's and scale's."""
        if self.paths == "shared":
            return (2 * latent_channels,)
        return (latent_channels, latent_channels)

    def support_channels(self, i: int, latent_channels: int) -> int:
        """Return the channels that each path of slice ``i`` starts from."""
        widths = self.slice_widths(latent_channels)
        return self.hyper_outputs(latent_channels)[0] + sum(widths[: self.seen(i)])

    def _check(self, latent_channels: int) -> None:
        """Refuse slices that do not sum to the latent, or a support that attention cannot have."""
        m, slices = latent_channels, self.slices
        if isinstance(slices, tuple) and sum(slices) != m:
            raise ConfigError(
                f"entropy_model.slices = {list(slices)} sum to {sum(slices)}, "
                f"not to latent_channels = {m}"
            )
        if isinstance(slices, int) and m % slices:
            divisors = [n for n in range(1, m + 1) if m % n == 0]
            fits = sorted(divisors, key=lambda n: abs(n - slices))[:2]
            raise ConfigError(
                f"entropy_model.slices = {slices} does not divide latent_channels = {m}; "
                f"nearest that do: {one_of(sorted(fits))} (or list the slices' widths)"
            )
        if self.hidden is None:
            self._check_alone()
        for i in range(len(self.slice_widths(m))):
            _at("entropy_model.attention", self.attention.check, self.support_channels(i, m))

    def _check_alone(self) -> None:
        none = ATTENTIONS.parse("none")
        alone = {"slices": 1, "attention": none, "lrp": "none", "checkerboard": False}
        for field, value in alone.items():
            if getattr(self, field) != value:
                raise ConfigError(
                    f"entropy_model.hidden = none takes the hyper output as mean and scale, which "
                    f"leaves no place for entropy_model.{field} = {getattr(self, field)!r}; "
                    "set slices 1, attention none, lrp none, checkerboard false"
                )


class VariantConfig(Frozen):
    """One codec, completely.

    Attributes:
        name: what tables call it.
        latent_channels: M, channels of y.
        hyper_channels: channels of z.
        rate_levels: 0, or how many learned rate levels one set of weights covers.
        shortcut: linear paths beside g_a and g_s: ``patch``, one map between the patch of the
            image below a latent position and its M channels; ``staged``, that and one beside every
            resampler but each transform's last (as AuxT has, Li et al. 2025, without wavelets);
            or ``none``, as published.
        g_a: analysis transform, image to y.
        g_s: synthesis transform, y to image.
        h_a: hyper analysis, y to z.
        h_s: hyper synthesis, z to the support of y's mean and scale.
        entropy_model: how y's slices are coded.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._/@=,+*?:{}\[\]-]*$")]
    latent_channels: PositiveInt
    hyper_channels: PositiveInt
    rate_levels: NonNegativeInt = 0
    shortcut: Shortcut = "none"
    g_a: TransformConfig
    g_s: TransformConfig
    h_a: TransformConfig
    h_s: TransformConfig
    entropy_model: EntropyModelConfig

    @field_validator("rate_levels")
    @classmethod
    def _one_level_is_none(cls, levels: int) -> int:
        if levels == 1:
            raise ConfigError("rate_levels = 1 conditions on nothing; write 0, or 2 and more")
        return levels

    @model_validator(mode="after")
    def _fits_together(self) -> VariantConfig:
        for name, plan in transform_plan(self).items():
            plan.check(name.split(".")[0])
        for down, up in (("g_a", "g_s"), ("h_a", "h_s")):
            shrinks, enlarges = getattr(self, down).factor, getattr(self, up).factor
            if shrinks != enlarges:
                raise ConfigError(
                    f"{down} shrinks the sides {shrinks} times but {up} enlarges them "
                    f"{enlarges} times; give both stages of the same strides"
                )
        self.entropy_model._check(self.latent_channels)
        return self

    def override(self, changes: Mapping[str, Any]) -> VariantConfig:
        """Return this configuration with dotted fields changed, validated as a whole.

        ``g_a.split`` reaches every stage of g_a that has a split; a list gives one value per such
        stage; ``g_a.stages.1.split`` reaches one; ``g_*.split`` ties g_a and g_s.

        Raises:
            ConfigError: a path or value is wrong; the message names the nearest that work.
        """
        if not changes:
            return self
        return VariantConfig.parse(apply_overrides(self.model_dump(mode="json"), changes))

    @property
    def stride(self) -> tuple[int, int]:
        """Sides of the image per side of y, and per side of z."""
        return self.g_a.factor, self.g_a.factor * self.h_a.factor

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of everything but the name: equal for equal codecs."""
        tree = self.model_dump(mode="json", exclude={"name"}, context=FINGERPRINT)
        widths = self.entropy_model.slice_widths(self.latent_channels)
        # A support beyond the last slice's predecessors sees nothing more.
        tree["entropy_model"]["support"] = min(self.entropy_model.support, len(widths) - 1)
        if self.entropy_model.attention.type == "none" and tree["entropy_model"]["lrp"] != "none":
            tree["entropy_model"]["lrp"] = "after-attention"  # before and after are the same
        if self.entropy_model.scale_table == "fine":
            del tree["entropy_model"]["scale_table"]  # as it was before there was a choice
        if not self.entropy_model.normalised:
            del tree["entropy_model"]["normalised"]
        if self.shortcut == "none":
            del tree["shortcut"]
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


class TransformPlan(NamedTuple):
    """What a transform is built from, and what its cost follows from."""

    config: TransformConfig
    direction: ResampleDirection
    c_in: int
    c_out: int
    shortcut: Shortcut = "none"

    def stages(self) -> Iterator[tuple[StageConfig, int, int, bool]]:
        """Yield each stage, its channels in and out, and whether a linear map goes beside it."""
        c_in, last = self.c_in, len(self.config.stages) - 1
        for i, stage in enumerate(self.config.stages):
            c_out = self.c_out if stage.width is None else stage.width
            beside = self.shortcut == "staged" and i < last and stage.resample.factor > 1
            yield stage, c_in, c_out, beside
            c_in = c_out

    def check(self, name: str) -> None:
        """Refuse channels that some layer cannot have.

        Raises:
            ConfigError: the message names the place within ``name``.
        """
        last = len(self.config.stages) - 1
        for i, (stage, before, width, _) in enumerate(self.stages()):
            place = f"{name}.stages.{i}"
            if i < last and stage.width is None:
                raise ConfigError(f"{place}.width is missing; only the last stage has none")
            if i == last and width != self.c_out:
                raise ConfigError(
                    f"{place}.width = {width}, but {name} must end at {self.c_out} channels; "
                    "leave it out"
                )
            _at(f"{place}.resample", stage.resample.check, before, width)
            if stage.block is not None:
                _at(f"{place}.block", stage.block.check, width)
            _at(f"{place}.attention", stage.attention.check, width)


def transform_plan(config: VariantConfig) -> dict[str, TransformPlan]:
    """Return the plan of each transform.

    The hyper synthesis occurs once for each of its outputs: ``h_s.mean`` and ``h_s.scale``, or
    ``h_s.shared``.
    """
    m, n = config.latent_channels, config.hyper_channels
    outputs = config.entropy_model.hyper_outputs(m)
    names = ("shared",) if len(outputs) == 1 else ("mean", "scale")
    return {
        "g_a": TransformPlan(config.g_a, "down", IMAGE_CHANNELS, m, config.shortcut),
        "h_a": TransformPlan(config.h_a, "down", m, n),
        **{
            f"h_s.{name}": TransformPlan(config.h_s, "up", n, channels)
            for name, channels in zip(names, outputs, strict=True)
        },
        "g_s": TransformPlan(config.g_s, "up", m, IMAGE_CHANNELS, config.shortcut),
    }

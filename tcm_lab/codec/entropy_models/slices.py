"""The channel-wise slice entropy model: its options, the networks of a slice, and the walk.

Shape suffixes: M latent channels, S channels of a slice, h w sides of the latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor, nn

from tcm_lab._utils import NONE_AS_WORD, ChannelCount
from tcm_lab.blocks import ATTENTIONS, AnyAttention, Cost, Extent, Extents
from tcm_lab.blocks.cost import conv_cost
from tcm_lab.codec.entropy_models.base import (
    EntropyModelConfig,
    register_entropy_model,
    start_output_at,
    start_scales,
)
from tcm_lab.codec.entropy_models.coder import Channels, Coder
from tcm_lab.codec.entropy_models.slicing import (
    SliceChain,
    SliceNetwork,
    both_colours,
    check_slices,
    checkerboard,
    slice_network_cost,
)
from tcm_lab.codec.seeds import seeded
from tcm_lab.errors import ConfigError, at

Lrp = Literal["none", "before-attention", "after-attention"]


@register_entropy_model("slices")
class SlicesConfig(EntropyModelConfig):
    """The channel-wise slice entropy model (Minnen & Singh 2020; Liu et al. 2023, section 3.3).

    Attributes:
        slices: number of equal slices of the latent, or the width of each slice.
        support: number of earlier slices, counted from the first, that each slice may see.
        attention: the module between the support and the slice networks.
        hidden: widths between the 3x3 convolutions of a slice network, with GELU between them;
            ``none`` uses the hyper output itself as mean and scale (one slice: the hyperprior
            alone).
        paths: whether mean and scale are computed ``apart`` (each its own hyper synthesis,
            attention and slice networks) or ``shared``.
        lrp: latent residual prediction from the mean support ``before-attention`` (the paper's
            figure) or ``after-attention`` (the authors' code); or ``none``.
        checkerboard: whether each slice is coded in two passes, the second of which sees the
            first one's neighbours (He et al. 2021 and 2022).
    """

    module_name = "slices"

    slices: ChannelCount | Annotated[tuple[ChannelCount, ...], Field(min_length=1)]
    support: Annotated[int, Field(ge=0, le=2**16)]
    attention: AnyAttention = Field(default_factory=lambda: ATTENTIONS.parse("none"))
    hidden: Annotated[tuple[ChannelCount, ...] | None, NONE_AS_WORD] = (224, 128)
    paths: Literal["apart", "shared"] = "apart"
    lrp: Lrp = "after-attention"
    checkerboard: bool = False
    shared: ClassVar[tuple[str, ...]] = ("support", "hidden")

    @field_validator("slices")
    @classmethod
    def _even_is_a_count(cls, slices: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if isinstance(slices, tuple) and len(set(slices)) == 1:
            raise ConfigError(
                f"slices = {list(slices)} are equal; write their number, {len(slices)}"
            )
        return slices

    def slice_widths(self, channels: int) -> tuple[int, ...]:
        """Return the width of each slice; they sum to ``channels``."""
        if isinstance(self.slices, tuple):
            return self.slices
        return (channels // self.slices,) * self.slices

    def seen(self, i: int) -> int:
        """Return how many earlier slices slice ``i`` sees."""
        return min(i, self.support)

    def hyper_outputs(self, channels: int) -> Mapping[str, int]:
        """Return the channels of each hyper synthesis output: one, or mean's and scale's."""
        if self.paths == "shared":
            return {"shared": 2 * channels}
        return {"mean": channels, "scale": channels}

    def support_channels(self, i: int, channels: int) -> int:
        """Return the channels of the support that each path of slice ``i`` sees."""
        widths = self.slice_widths(channels)
        hyper = 2 * channels if self.paths == "shared" else channels
        return hyper + sum(widths[: self.seen(i)])

    def is_chain(self, channels: int) -> bool:
        """Return whether the second slice sees the first."""
        return len(self.slice_widths(channels)) > 1 and self.support > 0

    def check(self, channels: int) -> None:
        """Refuse slices that do not sum to the latent, or a support that attention cannot take."""
        m, slices = channels, self.slices
        if isinstance(slices, tuple) and sum(slices) != m:
            raise ConfigError(
                f"slices = {list(slices)} sum to {sum(slices)}, not to latent_channels = {m}"
            )
        if isinstance(slices, int):
            check_slices(slices, m, " (or list the slices' widths)")
        if self.hidden is None:
            self._check_alone()
        for i in range(len(self.slice_widths(m))):
            at("attention", self.attention.check, self.support_channels(i, m))

    def _check_alone(self) -> None:
        none = ATTENTIONS.parse("none")
        alone = {"slices": 1, "attention": none, "lrp": "none", "checkerboard": False}
        for field, value in alone.items():
            if getattr(self, field) != value:
                raise ConfigError(
                    f"hidden = none uses the hyper output as mean and scale, which "
                    f"rules out entropy_model.{field} = {getattr(self, field)!r}; "
                    "set slices 1, attention none, lrp none, checkerboard false"
                )

    def build(self, channels: int) -> nn.Module:
        """Build the networks of all slices."""
        return SliceModel(self, channels)

    def cost(self, channels: int, height: int, width: int) -> dict[str, Cost]:
        """Return the cost of ``attention``, ``slice_heads`` and ``lrp`` of all slices."""
        paths = len(self.hyper_outputs(channels))
        parts = {"attention": Cost(), "slice_heads": Cost(), "lrp": Cost()}
        for i, s in enumerate(self.slice_widths(channels)):
            support = self.support_channels(i, channels)
            parts["attention"] += paths * self.attention.cost(support, height, width)
            if self.hidden is None:
                continue
            context = 2 * s if self.checkerboard else 0
            head = slice_network_cost(support + context, self.hidden, 2 * s // paths, height, width)
            parts["slice_heads"] += paths * head
            if self.checkerboard:  # a second pass with the same weights, and the context
                parts["slice_heads"] += paths * Cost(head.macs, {}, head.activations)
                parts["slice_heads"] += conv_cost(s, context, 5, height, width)
            if self.lrp != "none":
                parts["lrp"] += slice_network_cost(support + s, self.hidden, s, height, width)
        return parts

    def part_of(self, path: str) -> str:
        """Return ``attention``, ``slice_heads`` or ``lrp``."""
        child = path.partition(".")[2].partition(".")[0]
        return child if child in ("attention", "lrp") else "slice_heads"

    def canonical(self, channels: int) -> dict[str, Any]:
        """Return the options that have an effect; ``slices`` without ``type``, as at first."""
        tree = super().canonical(channels)
        if self.type == "slices":  # not a model derived from it
            del tree["type"]
        # The last slice sees all earlier ones; a larger support has no effect.
        tree["support"] = min(self.support, len(self.slice_widths(channels)) - 1)
        if self.attention.type == "none" and self.lrp != "none":
            tree["lrp"] = "after-attention"  # before and after are the same
        return tree


class CheckerboardContext(nn.Conv2d):
    """5x5 convolution in which each position sees only positions of the other colour.

    He et al. 2021, "Checkerboard context model". Its input holds the first pass's values, and zeros
    elsewhere; the masked kernel keeps a second-pass position from seeing its own colour.
    """

    kernel_mask: Tensor

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 5, padding=2)
        y, x = torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij")
        self.register_buffer("kernel_mask", ((y + x) % 2).float(), persistent=False)

    def forward(self, input: Float[Tensor, "b s h w"]) -> Float[Tensor, "b c h w"]:
        """Gather the neighbours of the other colour."""
        around: Tensor = self._conv_forward(input, self.weight * self.kernel_mask, self.bias)
        return around


class SliceCodec(nn.Module):
    """The modules of slice ``i``: attention, mean and scale networks, context, LRP."""

    def __init__(self, config: SlicesConfig, channels: int, i: int) -> None:
        super().__init__()
        widths = config.slice_widths(channels)
        width, first = widths[i], sum(widths[:i])
        support = config.support_channels(i, channels)
        paths = len(config.hyper_outputs(channels))
        # A path gives the mean or the scale; a shared one gives both.
        outputs = 2 * width // paths
        context = 2 * width if config.checkerboard else 0
        self.seen = config.seen(i)
        self.refines_before_attention = config.lrp == "before-attention"
        self.channels = first, first + width
        self.attention = nn.ModuleList(config.attention.build(support) for _ in range(paths))
        self.networks = nn.ModuleList(
            nn.Identity()
            if config.hidden is None
            else SliceNetwork(support + context, config.hidden, outputs)
            for _ in range(paths)
        )
        last = self.networks[-1]
        if isinstance(last, SliceNetwork):
            start_scales(last.last_bias[-width:])
        self.context = CheckerboardContext(width, context) if config.checkerboard else None
        self.lrp = (
            None
            if config.lrp == "none"
            else SliceNetwork(support + width, config.hidden or (), width)
        )

    def forward(
        self, features: Sequence[Tensor], earlier: Sequence[Tensor], code: Coder
    ) -> Float[Tensor, "b s h w"]:
        """Return the slice's ŷ, after any LRP; there is one feature per path."""
        supports = [torch.cat((path, *earlier[: self.seen]), 1) for path in features]
        attended = [
            attention(support) for attention, support in zip(self.attention, supports, strict=True)
        ]
        if self.context is None:
            y_hat = code(Channels(*self.channels), *self._mean_and_scale(attended))
        else:
            y_hat = self._checkerboard(attended, self.context, code)
        if self.lrp is None:
            return y_hat
        seen = supports[0] if self.refines_before_attention else attended[0]
        correction = self.lrp(torch.cat((seen, y_hat), 1))
        return code.refine(Channels(*self.channels), y_hat, correction)

    def branch_ends(self) -> list[nn.Module]:
        """Return the layers that leave ŷ as it was coded when their weights are zero."""
        return [] if self.lrp is None else [self.lrp[-1]]

    def extents(self) -> Extents:
        """Return the extents of the inputs, where the slice's own channels follow its support."""
        first, last = self.channels
        context = 0 if self.context is None else self.context.out_channels
        behind = {f"networks.{i}": (each, context) for i, each in enumerate(self.networks)}
        return {
            f"{name}.0.weight": (None, Extent((network.c_in - own, own)), None, None)
            for name, (network, own) in (behind | {"lrp": (self.lrp, last - first)}).items()
            if isinstance(network, SliceNetwork)
        }

    def start_at(self, mean: Tensor, scale: Tensor) -> None:
        """Make the networks predict this mean and scale of each channel, (S,)."""
        networks: list[Any] = list(self.networks)
        sides = torch.cat((mean, scale)).chunk(len(networks))
        for network, values in zip(networks, sides, strict=True):
            network.last_bias.copy_(values)

    def _mean_and_scale(
        self, supports: Sequence[Tensor], *context: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return mean and scale of every position from each path's support, and the context."""
        outputs = [
            network(torch.cat((support, *context), 1) if context else support)
            for network, support in zip(self.networks, supports, strict=True)
        ]
        mean, scale = outputs if len(outputs) == 2 else outputs[0].chunk(2, 1)
        return mean, scale

    def _checkerboard(
        self, supports: Sequence[Tensor], context: CheckerboardContext, code: Coder
    ) -> Tensor:
        """Code the positions of one colour, then those of the other, which see the first."""
        colour = checkerboard(supports[0])
        first, second = both_colours(*self.channels, colour)
        unknown = supports[0].new_zeros((supports[0].shape[0], context.out_channels, *colour.shape))
        anchors = code(first, *self._mean_and_scale(supports, unknown))
        return anchors + code(second, *self._mean_and_scale(supports, context(anchors)))


class SliceModel(SliceChain, nn.ModuleList):
    """The slices; the configuration sets how many earlier ones each of them sees."""

    def __init__(self, config: SlicesConfig, channels: int) -> None:
        slices = range(len(config.slice_widths(channels)))
        super().__init__(seeded(SliceCodec, config, channels, i) for i in slices)
        self._from_hyper = config.hidden is None

    def start_at(self, mean: Tensor, scale: Tensor, h_s: nn.Module) -> None:
        """Make every slice predict this mean and scale (M,), or h_s if slices have no networks."""
        if not self._from_hyper:
            super().start_at(mean, scale, h_s)
            return
        both = {"mean": mean, "scale": scale, "shared": torch.cat((mean, scale))}
        for name, transform in h_s.named_children():
            start_output_at(transform, both[name])

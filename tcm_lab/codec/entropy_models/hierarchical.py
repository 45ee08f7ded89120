"""The hierarchical entropy model of HPCM: coarse lattices of the latent first, then finer ones.

From Li et al. 2025, "Learned image compression with hierarchical progressive context modeling"
(ICCV), and its code (lyq133/LIC-HPCM, MIT). A step's context, a map of the whole lattice,
passes to the next step by attention and to the next lattice by position.

Shape suffixes: M latent channels, h w sides of the latent, p q sides of a lattice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from tcm_lab._utils import ChannelCount, LayerCount
from tcm_lab.blocks import BLOCKS, AnyBlock, BlockConfig, Cost, WindowCrossAttention, conv_cost
from tcm_lab.blocks.cost import Kind
from tcm_lab.blocks.cross_attention import cross_attention_cost
from tcm_lab.blocks.swin import WindowSide
from tcm_lab.blocks.window_attention import check_heads
from tcm_lab.codec.distributions import GENERALISED_SCALE_TABLES, Distribution
from tcm_lab.codec.entropy_models.base import (
    EntropyModelConfig,
    register_entropy_model,
    start_output_at,
    start_scales,
)
from tcm_lab.codec.entropy_models.coder import Coder
from tcm_lab.codec.entropy_models.lattices import CELL, GROUPS, STEPS, Lattice, lattices, take
from tcm_lab.codec.seeds import seeded
from tcm_lab.errors import ConfigError, at, one_of

#: The trunk of each lattice's steps: quarter and half share the coarse one.
_TRUNKS = ("coarse", "coarse", "fine")
#: Passes of the trunk on each lattice: one in every step but the very first.
_PASSES = (len(STEPS[0]) - 1, len(STEPS[1]), len(STEPS[2]))
#: Passes of the attention that carries the context on: one after every step but first and last.
_CARRIED = (*_PASSES[:-1], _PASSES[-1] - 1)
#: Spacing of the positions of each lattice.
_SPACING = (4, 2, 1)


@register_entropy_model("hierarchical")
class HierarchicalConfig(EntropyModelConfig):
    """HPCM: a sixteenth of the latent in two steps, three in three, twelve in six.

    Attributes:
        coarse: number of blocks before and after the step's own factors, in the network that the
            steps of the two coarse lattices share.
        fine: the same for the full lattice.
        block: block of both networks, on 3 M channels: the context and ŷ.
        window_size: side of the windows of the attention that carries the context on, by lattice.
        head_dim: channels of one head of this attention, which has 2 M channels.
        hyper_places: where the half lattice takes its hyper parameters from: its ``own`` places, or
            ``as-published`` those that the authors' code reads, which often differ.
        scale_table: scales that the coder distinguishes. With ``fine``, each scale uses the nearest
            of 256; with ``published``, the next larger of the authors' 60.
    """

    prior: ClassVar[str] = "generalised-gaussian"

    coarse: tuple[LayerCount, LayerCount] = (2, 1)
    fine: tuple[LayerCount, LayerCount] = (3, 2)
    block: AnyBlock = Field(default_factory=lambda: BLOCKS.parse("depthwise-conv"))
    window_size: tuple[WindowSide, WindowSide, WindowSide] = (4, 8, 8)
    head_dim: ChannelCount = 16
    hyper_places: Literal["own", "as-published"] = "own"
    scale_table: Literal["fine", "published"] = "fine"  # type: ignore[assignment]  # other tables

    @property
    def distribution(self) -> Distribution:
        """The generalised Gaussian of shape 1.5."""
        return GENERALISED_SCALE_TABLES[self.scale_table]

    @property
    def stride(self) -> int:
        """Side of a cell; y consists of whole cells."""
        return CELL

    def check(self, channels: int) -> None:
        """Refuse a latent that does not divide into groups, or a width that a layer cannot have."""
        if channels % GROUPS:
            below = channels // GROUPS * GROUPS
            fits = one_of([n for n in (below, below + GROUPS) if n])
            raise ConfigError(
                f"type = hierarchical codes {GROUPS} groups of channels, into which "
                f"latent_channels = {channels} does not divide; nearest that work: {fits}"
            )
        check_heads(2 * channels, self.head_dim)
        at("block", self.block.check, 3 * channels)

    def build(self, channels: int) -> nn.Module:
        """Build the networks of all steps."""
        return HierarchicalModel(self, channels)

    def part_of(self, path: str) -> str:
        """Return ``adaptors``, ``coarse_trunk``, ``fine_trunk``, ``attention`` or ``merging``."""
        child, _, below = path.partition(".")
        if child == "trunks":
            return f"{below.partition('.')[0] or 'coarse'}_trunk"
        if child == "factors":
            # A step's own factors belong to the trunk that they scale.
            return "coarse_trunk" if int(below or 0) < sum(_PASSES[:2]) else "fine_trunk"
        return {"adaptors": "adaptors", "merges": "merging"}.get(child, "attention")

    def prior_cost(self, channels: int) -> Cost:
        """Return the cost of z's means and scales."""
        return Cost({}, {Kind.PRIOR: 2 * channels})

    def cost(self, channels: int, height: int, width: int) -> dict[str, Cost]:
        """Return the cost of adaptors, trunks, attention and merging on all lattices."""
        both, whole = 2 * channels, 3 * channels
        parts = dict.fromkeys(
            ("adaptors", "coarse_trunk", "fine_trunk", "attention", "merging"), Cost()
        )
        for i, trunk in enumerate(_TRUNKS):
            h, w = height // _SPACING[i], width // _SPACING[i]
            parts["adaptors"] += _PASSES[i] * conv_cost(whole, whole, 1, h, w)
            single = sum(getattr(self, trunk)) * self.block.cost(whole, h, w)
            single += conv_cost(whole, both, 1, h, w)
            counted = parts[f"{trunk}_trunk"].parameters  # empty unless a lattice before shares it
            parts[f"{trunk}_trunk"] += _shared(single, _PASSES[i], new=not counted)
            parts[f"{trunk}_trunk"] += Cost({}, {Kind.OTHER: _PASSES[i] * whole})
            single = cross_attention_cost(both, self.head_dim, self.window_size[i], h, w)
            parts["attention"] += _shared(single, _CARRIED[i], new=True)
            if i:
                parts["merging"] += conv_cost(both, both, 1, h, w)
        return parts


def _shared(single: Cost, passes: int, *, new: bool) -> Cost:
    """Return the cost of several passes through one set of weights, counted if ``new``."""
    weights = Cost({}, single.parameters if new else {})
    return passes * Cost(single.macs, {}, single.activations) + weights


class Trunk(nn.Module):
    """Blocks, the step's own factors, blocks, and a 1x1 convolution to scales and means.

    ``depths`` gives the number of blocks before and after the factors.
    """

    def __init__(
        self, depths: tuple[int, int], block: BlockConfig, channels: int, outputs: int
    ) -> None:
        super().__init__()
        before, after = depths
        self.before = nn.Sequential(*(block.build(channels, i) for i in range(before)))
        self.after = nn.Sequential(
            *(block.build(channels, before + i) for i in range(after)),
            nn.Conv2d(channels, outputs, 1),
        )
        start_scales(self.output.bias[: outputs // 2])

    @property
    def output(self) -> Any:
        """The convolution to scales and means."""
        return self.after[-1]

    def forward(
        self, x: Float[Tensor, "b c p q"], factors: Float[Tensor, "1 c 1 1"]
    ) -> Float[Tensor, "b d p q"]:
        """Transform (B, C, p, q)."""
        out: Tensor = self.after(self.before(x) * factors)
        return out


class HierarchicalModel(nn.Module):
    """The networks of all steps, and the walk over lattices and steps.

    Its children are in the order of use; checkpoints of the authors have the adaptors of a lattice
    in another order.
    """

    def __init__(self, config: HierarchicalConfig, channels: int) -> None:
        super().__init__()
        both, whole = 2 * channels, 3 * channels
        self.nominal = config.hyper_places == "as-published"
        passes = range(sum(_PASSES))
        self.adaptors = nn.ModuleList(seeded(nn.Conv2d, whole, whole, 1) for _ in passes)
        self.trunks = nn.ModuleDict(
            {
                name: seeded(Trunk, getattr(config, name), config.block, whole, both)
                for name in dict.fromkeys(_TRUNKS)
            }
        )
        self.factors = nn.ParameterList(torch.ones(1, whole, 1, 1) for _ in passes)
        self.attentions = nn.ModuleList(
            seeded(WindowCrossAttention, both, config.head_dim, window_size)
            for window_size in config.window_size
        )
        self.merges = nn.ModuleList(seeded(nn.Conv2d, both, both, 1) for _ in STEPS[1:])

    def start_at(self, mean: Tensor, scale: Tensor, h_s: nn.Module) -> None:
        """Make all steps predict ``mean`` and ``scale`` (M,); the first step uses h_s's output."""
        both = torch.cat((scale, mean))
        for output in h_s.children():
            start_output_at(output, both)
        trunks: Any = self.trunks.values()
        for trunk in trunks:
            trunk.output.bias.copy_(both)

    def forward(
        self, features: Sequence[Float[Tensor, "b c h w"]], code: Coder
    ) -> Float[Tensor, "b m h w"]:
        """Return ŷ from one output of the hyper synthesis, (B, 2M, h, w): scales, then means."""
        (hyper,) = features
        batch, both, *size = hyper.shape
        walk = lattices(both // 2, (int(size[0]), int(size[1])), hyper.device, nominal=self.nominal)
        maps = hyper.reshape(batch, 2, -1)
        context: Tensor | None = None
        y_hat: Tensor | None = None
        remaining = iter(zip(self.adaptors, self.factors, strict=True))
        for i, lattice in enumerate(walk):
            context = self._enter(i, lattice, context, maps)
            for step in lattice.steps:
                current = context
                if y_hat is not None:
                    known = take(y_hat, lattice.latent).view(batch, -1, *context.shape[2:])
                    adaptor, factors = next(remaining)
                    x = adaptor(torch.cat((context, known), 1))
                    current = self.trunks[_TRUNKS[i]](x, factors)
                scale, mean = take(current.reshape(batch, 2, -1), step.here).unbind(1)
                coded = code(step.places, mean, scale)
                if y_hat is None:
                    y_hat = coded.new_zeros(batch, 1, maps.shape[2])
                elif step is not walk[-1].steps[-1]:
                    context = self.attentions[i](current, context)
                target = step.latent.long().expand(batch, 1, -1)
                y_hat = y_hat.scatter(2, target, coded[:, None])
        assert y_hat is not None  # there are steps
        return y_hat.view(batch, both // 2, *size)

    def _enter(
        self, i: int, lattice: Lattice, coarser: Tensor | None, hyper: Float[Tensor, "b 2 n"]
    ) -> Float[Tensor, "b c p q"]:
        """Return the context at the start of lattice ``i``."""
        known = hyper
        if coarser is not None:
            known = torch.cat((coarser.reshape(*hyper.shape[:2], -1), hyper), 2)
        entered = take(known, lattice.entry).view(len(hyper), -1, *lattice.entry.shape[1:])
        if coarser is None:
            return entered
        merged: Tensor = self.merges[i - 1](entered)
        return merged

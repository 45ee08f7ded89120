"""MLIC++'s entropy model: slices in two passes each, predicted from four kinds of context.

Jiang, Yang, Zhai, Gao, Wang: MLIC++: Linear complexity multi-reference entropy modeling for
learned image compression, ICML workshop 2023 (arXiv 2307.15421), as their corrected code of April
2024 computes it. A slice's anchors, the positions of one colour of a checkerboard, are coded from
the hyper synthesis and the earlier slices; the other positions also see the anchors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tcm_lab._utils import NONE_AS_WORD, ChannelCount, Frozen, Ratio
from tcm_lab.blocks import Cost
from tcm_lab.blocks.convolutional import KernelSide
from tcm_lab.blocks.linear_attention import GlobalAttention, global_attention_cost
from tcm_lab.blocks.overlapped_windows import OverlappedWindowAttention, overlapped_window_cost
from tcm_lab.blocks.window_attention import check_heads
from tcm_lab.codec.entropy_models.base import register_entropy_model, start_scales
from tcm_lab.codec.entropy_models.coder import Coder, Places
from tcm_lab.codec.entropy_models.slicing import (
    EqualSlicesConfig,
    SliceChain,
    SliceNetwork,
    both_colours,
    checkerboard,
    slice_network_cost,
)
from tcm_lab.codec.seeds import seeded
from tcm_lab.errors import at

Slice = Float[Tensor, "b s h w"]
Hyper = Float[Tensor, "b m2 h w"]


class ChannelContext(Frozen):
    """Convolutions on all earlier slices.

    Attributes:
        hidden: widths between the 3x3 convolutions, with GELU between them.
        width: channels of the context.
    """

    hidden: tuple[ChannelCount, ...] = (192, 128)
    width: ChannelCount = 128

    def build(self, channels: int) -> SliceNetwork:
        """Build the convolutions on ``channels`` channels."""
        return SliceNetwork(channels, self.hidden, self.width)

    def cost(self, channels: int, height: int, width: int) -> Cost:
        """Return their cost on maps of ``height`` x ``width``."""
        return slice_network_cost(channels, self.hidden, self.width, height, width)


class GlobalContext(Frozen):
    """Linear attention among all positions.

    Attributes:
        head_dim: channels of one attention head.
        kernel: side of the convolution after the attention.
        inner: output channels of this convolution.
        hidden: width of the hidden layer of the MLP after it.
        width: channels of the context.
    """

    head_dim: ChannelCount
    kernel: KernelSide = 5
    inner: ChannelCount
    hidden: ChannelCount = 128
    width: ChannelCount = 64

    def build(self, channels: int) -> GlobalAttention:
        """Build the attention on ``channels`` channels."""
        return GlobalAttention(
            channels, self.head_dim, self.kernel, self.inner, self.hidden, self.width
        )

    def cost(self, channels: int, height: int, width: int) -> Cost:
        """Return its cost on maps of ``height`` x ``width``."""
        return global_attention_cost(
            channels, self.head_dim, self.kernel, self.inner, self.hidden, self.width, height, width
        )


class LocalContext(Frozen):
    """Attention in the window around each position.

    Attributes:
        window_size: side of a window, odd.
        head_dim: channels of one attention head.
        mlp_ratio: width of the MLP's hidden layer relative to the context's.
        width: channels of the context.
    """

    window_size: KernelSide = 5
    head_dim: ChannelCount = 16
    mlp_ratio: Ratio = 2.0
    width: ChannelCount = 64

    def build(self, channels: int) -> OverlappedWindowAttention:
        """Build the attention on ``channels`` channels."""
        return OverlappedWindowAttention(
            channels, self.head_dim, self.window_size, self.width, self.mlp_ratio
        )

    def cost(self, channels: int, height: int, width: int) -> Cost:
        """Return its cost on maps of ``height`` x ``width``."""
        return overlapped_window_cost(
            channels, self.window_size, self.width, self.mlp_ratio, self.head_dim, height, width
        )


_Contexts = tuple[
    ChannelContext | None, GlobalContext | None, GlobalContext | None, LocalContext | None
]


@register_entropy_model("multi-context")
class MultiContextConfig(EqualSlicesConfig):
    """MLIC++'s multi-reference entropy model (Jiang et al. 2023).

    Attributes:
        hidden: widths between the 1x1 convolutions from contexts to means and scales.
        channel: convolutions on all earlier slices; or ``none``.
        inter: attention among all positions of all earlier slices; or ``none``.
        intra: attention from a slice's other positions to its anchors, with weights from the
            previous slice's values there; or ``none``.
        local: attention among the anchors around each position; or ``none``.
        lrp: widths between the 3x3 convolutions of latent residual prediction, which follows each
            pass; or ``none``.
    """

    slices: ChannelCount = 10
    hidden: tuple[ChannelCount, ...] = (320, 256, 128)
    channel: Annotated[ChannelContext | None, NONE_AS_WORD] = ChannelContext()
    inter: Annotated[GlobalContext | None, NONE_AS_WORD] = GlobalContext(head_dim=32, inner=96)
    intra: Annotated[GlobalContext | None, NONE_AS_WORD] = GlobalContext(head_dim=16, inner=64)
    local: Annotated[LocalContext | None, NONE_AS_WORD] = LocalContext()
    lrp: Annotated[tuple[ChannelCount, ...] | None, NONE_AS_WORD] = (224, 128)

    def check(self, channels: int) -> None:
        """Refuse slices that do not divide the latent, or heads that do not divide a slice."""
        super().check(channels)
        for name in ("inter", "intra", "local"):
            context = getattr(self, name)
            if context is not None:
                at(name, check_heads, channels // self.slices, context.head_dim)

    def build(self, channels: int) -> nn.Module:
        """Build the networks of all slices."""
        slices = range(self.slices)
        return MultiContext(seeded(ContextSlice, self, channels, i) for i in slices)

    def cost(self, channels: int, height: int, width: int) -> dict[str, Cost]:
        """Return the cost of each context, the parameter networks (``slice_heads``) and LRP."""
        total: dict[str, Cost] = {}
        for i in range(self.slices):
            for part, cost in self._slice_cost(channels, i, height, width).items():
                total[part] = total.get(part, Cost()) + cost
        return total

    def part_of(self, path: str) -> str:
        """Return the part under which `cost` lists a module."""
        behind_slice = path.partition(".")[2]
        step = behind_slice.removeprefix("anchors.").removeprefix("others.").partition(".")[0]
        if step in ("channel", "inter", "intra", "local"):
            return f"{step}_context"
        return "lrp" if step == "lrp" else "slice_heads"

    def contexts(self, i: int) -> _Contexts:
        """Return the contexts that slice ``i`` has: channel, inter, intra, local."""
        if i == 0:
            return None, None, None, self.local
        return self.channel, self.inter, self.intra, self.local

    def support(self, channels: int, i: int) -> tuple[int, int]:
        """Return how many channels both passes of slice ``i`` see, and how many only the second."""
        channel, inter, intra, local = self.contexts(i)
        both, second = ([c.width for c in pair if c] for pair in ((channel, inter), (intra, local)))
        return 2 * channels + sum(both), sum(second)

    def _slice_cost(self, channels: int, i: int, height: int, width: int) -> dict[str, Cost]:
        """Return the cost of slice ``i`` by part; each pass computes the whole map."""
        s, size = channels // self.slices, (height, width)
        shared, own = self.support(channels, i)
        parts = {
            "slice_heads": slice_network_cost(shared, self.hidden, 2 * s, *size, kernel=1)
            + slice_network_cost(own + shared, self.hidden, 2 * s, *size, kernel=1)
        }
        if self.lrp is not None:
            parts["lrp"] = 2 * slice_network_cost(channels + (i + 1) * s, self.lrp, s, *size)
        seen = {"channel": i * s, "inter": i * s, "intra": s, "local": s}
        for (name, c_in), context in zip(seen.items(), self.contexts(i), strict=True):
            if context is not None:
                parts[f"{name}_context"] = context.cost(c_in, *size)
        return parts


class CodingPass(nn.Module):
    """The networks of one of a slice's two passes: means and scales, and LRP.

    The first network sees ``support`` channels of contexts, LRP sees ``refined_from`` channels.
    """

    def __init__(
        self, config: MultiContextConfig, support: int, refined_from: int, width: int
    ) -> None:
        super().__init__()
        self.head = SliceNetwork(support, config.hidden, 2 * width, kernel=1)
        start_scales(self.head.last_bias[:width])
        self.lrp = None if config.lrp is None else SliceNetwork(refined_from, config.lrp, width)

    def forward(
        self,
        code: Coder,
        places: Places,
        contexts: Sequence[Tensor],
        refined_from: Sequence[Tensor],
        anchors: Slice | None = None,
    ) -> Slice:
        """Return the slice's ŷ at the places, after any LRP, and 0 elsewhere.

        Args:
            code: returns ŷ at places whose mean and scale are given.
            places: the places of this pass.
            contexts: inputs of the network of means and scales.
            refined_from: inputs of latent residual prediction other than this slice.
            anchors: ŷ of the first pass; None in the first.
        """
        scale, mean = self.head(torch.cat((*contexts,), 1)).chunk(2, 1)
        y_hat = code(places, mean, scale)
        if self.lrp is None:
            return y_hat
        so_far = y_hat if anchors is None else anchors + y_hat
        return code.refine(places, y_hat, self.lrp(torch.cat((*refined_from, so_far), 1)))

    def branch_ends(self) -> list[nn.Module]:
        """Return the layers that leave ŷ as it was coded when their weights are zero."""
        return [] if self.lrp is None else [self.lrp[-1]]


class ContextSlice(nn.Module):
    """Slice ``i``: its contexts, including those of any earlier slices, and its two passes."""

    def __init__(self, config: MultiContextConfig, channels: int, i: int) -> None:
        super().__init__()
        width = channels // config.slices
        before, last = i * width, (i + 1) * width
        self.channels = before, last
        channel, inter, intra, local = config.contexts(i)
        self.channel = channel.build(before) if channel else None
        self.inter = inter.build(before) if inter else None
        self.intra = intra.build(width) if intra else None
        self.local = local.build(width) if local else None
        shared, own = config.support(channels, i)
        self.anchors = CodingPass(config, shared, channels + last, width)
        self.others = CodingPass(config, own + shared, channels + last, width)

    def forward(self, features: Sequence[Hyper], decoded: Sequence[Slice], code: Coder) -> Slice:
        """Return the slice's ŷ; the second half of the only feature is for the means."""
        (hyper,) = features
        colour = checkerboard(hyper)
        before = torch.cat((*decoded,), 1) if decoded else hyper[:, :0]
        contexts = [context(before) for context in (self.inter, self.channel) if context]
        contexts.append(hyper)
        seen = (hyper.chunk(2, 1)[1], before)
        first, second = both_colours(*self.channels, colour)
        anchors = self.anchors(code, first, contexts, seen)
        contexts = [*self._of_anchors(anchors, decoded, colour), *contexts]
        others = self.others(code, second, contexts, seen, anchors)
        y_hat: Tensor = anchors + others
        return y_hat

    def _of_anchors(
        self, anchors: Slice, decoded: Sequence[Slice], colour: Bool[Tensor, "h w"]
    ) -> list[Tensor]:
        """Return the contexts that the other positions get from the anchors."""
        contexts = []
        if self.local is not None:
            contexts.append(self.local(anchors, colour))
        if self.intra is not None:
            # Positions that are alike in the previous slice are taken to be alike in this one.
            queries, keys = decoded[-1] * ~colour, decoded[-1] * colour
            contexts.append(self.intra(queries, keys, anchors, colour))
        return contexts

    def start_at(self, mean: Tensor, scale: Tensor) -> None:
        """Make both passes predict this mean and scale of each channel, (S,)."""
        for coding_pass in (self.anchors, self.others):
            coding_pass.head.last_bias.copy_(torch.cat((scale, mean)))


class MultiContext(SliceChain, nn.ModuleList):
    """The slices, coded in order."""

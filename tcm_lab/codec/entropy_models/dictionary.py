"""The dictionary entropy model (DCAE): slices that also see a learned dictionary.

Lu et al. 2025, "Learned Image Compression with Dictionary-based Entropy Model", CVPR, arXiv
2504.00496, figures 3 and 4.

Shape suffixes: M latent channels, S channels of a slice, h w sides of the latent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from tcm_lab._utils import ChannelCount, LayerCount
from tcm_lab.blocks import Cost, Kind
from tcm_lab.blocks.dictionary import DictionaryAttention, dictionary_attention_cost
from tcm_lab.blocks.window_attention import check_heads
from tcm_lab.codec.entropy_models.base import register_entropy_model
from tcm_lab.codec.entropy_models.coder import Channels, Coder
from tcm_lab.codec.entropy_models.slicing import (
    EqualSlicesConfig,
    SliceChain,
    SliceNetwork,
    slice_network_cost,
)
from tcm_lab.codec.seeds import seeded
from tcm_lab.errors import at


@register_entropy_model("dictionary")
class DictionaryModelConfig(EqualSlicesConfig):
    """Slices, each predicted from earlier ones and a dictionary that it attends to (DCAE).

    Attributes:
        hidden: widths between the 3x3 convolutions of a slice network, with GELU between them.
        entries: number of entries of the dictionary.
        width: channels of an entry, and of the cross-attention.
        head_dim: channels of one attention head.
        layers: layers of the dense aggregation that computes the query.
        mlp_ratio: width of the gated unit's first layer relative to ``width``.
        lrp: whether a latent residual prediction refines each slice.
    """

    hidden: tuple[ChannelCount, ...] = (224, 128)
    entries: ChannelCount = 128
    width: ChannelCount = 640
    head_dim: ChannelCount = 32
    layers: Annotated[LayerCount, Field(gt=0)] = 3
    mlp_ratio: Annotated[int, Field(gt=0, le=1000)] = 4
    lrp: bool = True

    def hyper_outputs(self, channels: int) -> Mapping[str, int]:
        """Return two outputs, both seen by every slice, in the authors' order."""
        return {"scale": channels, "mean": channels}

    def query_channels(self, i: int, channels: int) -> int:
        """Return the channels of slice ``i``'s query: hyper outputs and earlier slices."""
        return 2 * channels + i * (channels // self.slices)

    def check(self, channels: int) -> None:
        """Refuse slices that do not divide the latent, and heads that do not divide the width."""
        super().check(channels)
        at(f"width = {self.width}", check_heads, self.width, self.head_dim)

    def build(self, channels: int) -> nn.Module:
        """Build the dictionary and the slices."""
        return DictionaryModel(self, channels)

    def cost(self, channels: int, height: int, width: int) -> dict[str, Cost]:
        """Return the cost of ``dictionary``, ``slice_heads`` and ``lrp``."""
        parts = {
            "dictionary": Cost({}, {Kind.OTHER: self.entries * self.width}),
            "slice_heads": Cost(),
            "lrp": Cost(),
        }
        for i, s in enumerate(self.slice_widths(channels)):
            query = self.query_channels(i, channels)
            parts["dictionary"] += dictionary_attention_cost(
                query, self.width, channels, self.head_dim, self.layers, self.mlp_ratio,
                self.entries, height, width,
            )  # fmt: skip
            support = query + channels
            parts["slice_heads"] += 2 * slice_network_cost(support, self.hidden, s, height, width)
            if self.lrp:
                parts["lrp"] += slice_network_cost(support + s, self.hidden, s, height, width)
        return parts

    def part_of(self, path: str) -> str:
        """Return ``dictionary``, ``slice_heads`` or ``lrp``."""
        steps = path.split(".")
        kind = steps[2] if steps[0] == "slices" and len(steps) > 2 else ""
        return {"mean": "slice_heads", "scale": "slice_heads", "lrp": "lrp"}.get(kind, "dictionary")


class DictionarySlice(nn.Module):
    """The networks of slice ``i``."""

    def __init__(self, config: DictionaryModelConfig, channels: int, i: int) -> None:
        super().__init__()
        s, query = channels // config.slices, config.query_channels(i, channels)
        support = query + channels
        self.channels = i * s, (i + 1) * s
        self.dictionary = DictionaryAttention(
            query, config.width, channels, config.head_dim, config.layers, config.mlp_ratio
        )
        self.mean = SliceNetwork(support, config.hidden, s)
        self.scale = SliceNetwork(support, config.hidden, s)
        self.lrp = SliceNetwork(support + s, config.hidden, s) if config.lrp else None
        self.start_at(torch.zeros(s), torch.full((s,), 0.5))

    def forward(
        self, features: Sequence[Tensor], earlier: Sequence[Tensor], code: Coder
    ) -> Float[Tensor, "b s h w"]:
        """Return the slice's ŷ, after any LRP; the last feature holds the entries."""
        *hyper, entries = features
        query = torch.cat((*hyper, *earlier), 1)
        support = torch.cat((query, self.dictionary(query, entries)), 1)
        places = Channels(*self.channels)
        y_hat = code(places, self.mean(support), self.scale(support))
        if self.lrp is None:
            return y_hat
        return code.refine(places, y_hat, self.lrp(torch.cat((support, y_hat), 1)))

    @torch.no_grad()
    def start_at(self, mean: Float[Tensor, " s"], scale: Float[Tensor, " s"]) -> None:
        """Make the networks predict this mean and scale of each channel, (S,)."""
        for network, values in ((self.mean, mean), (self.scale, scale)):
            network.last_bias.copy_(values)

    def branch_ends(self) -> list[nn.Module]:
        """Return the layers that leave ŷ as it was coded when their weights are zero."""
        return [] if self.lrp is None else [self.lrp[-1]]


class DictionaryModel(SliceChain):
    """A dictionary, and slices that attend to it one after the other."""

    def __init__(self, config: DictionaryModelConfig, channels: int) -> None:
        super().__init__()
        self.entries = nn.Parameter(seeded(torch.randn, config.entries, config.width))
        self.slices = nn.ModuleList(
            seeded(DictionarySlice, config, channels, i) for i in range(config.slices)
        )

    @property
    def chain(self) -> Iterable[Any]:
        """The slices, without the dictionary."""
        return self.slices

    def forward(self, features: Sequence[Tensor], code: Coder) -> Float[Tensor, "b m h w"]:
        """Return ŷ of all slices; see `EntropyModel`."""
        return super().forward((*features, self.entries), code)

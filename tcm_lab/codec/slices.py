"""The networks of one slice of the latent, and the walk over all slices.

The walk is written once. What differs between estimating, encoding and decoding is only how a
slice's quantised values come about once its mean and scale are known; that is the `SliceCoder`.

Shape suffixes: M latent channels, S channels of a slice, h w sides of the latent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tcm_lab.blocks import Cost
from tcm_lab.blocks.cost import conv_cost
from tcm_lab.codec.config import EntropyModelConfig


class SliceCoder(Protocol):
    """Turns a slice's mean and scale into its quantised values ŷ."""

    def __call__(
        self,
        i: int,
        mean: Float[Tensor, "b s h w"],
        scale: Float[Tensor, "b s h w"],
        where: Bool[Tensor, "h w"] | None,
    ) -> Float[Tensor, "b s h w"]:
        """Return ŷ of slice ``i`` at the positions ``where`` (None: all), and 0 elsewhere."""
        ...


class SliceNetwork(nn.Sequential):
    """3x3 convolutions with GELU between, from a support to a slice's parameters.

    Args:
        c_in: channels of the support.
        hidden: widths between.
        c_out: channels of the result.
    """

    def __init__(self, c_in: int, hidden: Sequence[int], c_out: int) -> None:
        widths = (c_in, *hidden, c_out)
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.GELU()]
        super().__init__(*layers[:-1])


class CheckerboardContext(nn.Conv2d):
    """5x5 convolution that sees, from a position, only those of the other colour.

    He et al. 2021, "Checkerboard context model". Its input holds the first pass's values and zeros
    elsewhere, so masking the kernel is what keeps a second-pass position from seeing its own kind.
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
    """Everything that one slice needs: attention, mean and scale networks, context, LRP.

    Args:
        config: the entropy model.
        latent_channels: M.
        i: which slice.
    """

    def __init__(self, config: EntropyModelConfig, latent_channels: int, i: int) -> None:
        super().__init__()
        width = config.slice_widths(latent_channels)[i]
        support = config.support_channels(i, latent_channels)
        paths = len(config.hyper_outputs(latent_channels))
        # A path gives the mean or the scale; a shared one gives both.
        outputs = 2 * width // paths
        context = 2 * width if config.checkerboard else 0
        self.seen = config.seen(i)
        self.refines_before_attention = config.lrp == "before-attention"
        self.i = i
        self.width = width
        self.attention = nn.ModuleList(config.attention.build(support) for _ in range(paths))
        self.networks = nn.ModuleList(
            nn.Identity()
            if config.hidden is None
            else SliceNetwork(support + context, config.hidden, outputs)
            for _ in range(paths)
        )
        if config.hidden is not None:
            self._start_scales(width)
        self.context = CheckerboardContext(width, context) if config.checkerboard else None
        self.lrp = (
            None
            if config.lrp == "none"
            else SliceNetwork(support + width, config.hidden or (), width)
        )

    def _start_scales(self, width: int) -> None:
        """Let every scale start at half a quantisation step.

        Untrained networks give scales around zero, where the likelihoods are at their floor: the
        estimate then differs from the coder, and training starts without a gradient.
        """
        last: Any = self.networks[-1]
        nn.init.constant_(last[-1].bias[-width:], 0.5)

    def forward(
        self,
        features: Sequence[Tensor],
        earlier: Sequence[Tensor],
        code: SliceCoder,
        gain: Float[Tensor, "#b s 1 1"] | None = None,
    ) -> Float[Tensor, "b s h w"]:
        """Return the slice's ŷ, refined if the model refines.

        Args:
            features: hyper synthesis outputs, one for each path, each (B, M or 2M, h, w).
            earlier: ŷ of the slices before this one, each (B, S, h, w).
            code: gives ŷ where mean and scale are known.
            gain: quantisation steps per unit of the networks, for each channel; None: one.
        """
        if gain is not None:
            code = _InUnits(code, gain)
        supports = [torch.cat((path, *earlier[: self.seen]), 1) for path in features]
        attended = [
            attention(support) for attention, support in zip(self.attention, supports, strict=True)
        ]
        if self.context is None:
            y_hat = code(self.i, *self._mean_and_scale(attended), None)
        else:
            y_hat = self._checkerboard(attended, self.context, code)
        if self.lrp is None:
            return y_hat
        seen = supports[0] if self.refines_before_attention else attended[0]
        half_step = 0.5 if gain is None else 0.5 / gain
        refined: Tensor = y_hat + half_step * torch.tanh(self.lrp(torch.cat((seen, y_hat), 1)))
        return refined

    def _mean_and_scale(self, supports: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return mean and scale of every position from each path's support."""
        outputs = [
            network(support) for network, support in zip(self.networks, supports, strict=True)
        ]
        mean, scale = outputs if len(outputs) == 2 else outputs[0].chunk(2, 1)
        return mean, scale

    def _checkerboard(
        self, supports: Sequence[Tensor], context: nn.Module, code: SliceCoder
    ) -> Tensor:
        """Code the positions of one colour, then those of the other, which see the first."""
        first = checkerboard(supports[0])
        unknown = supports[0].new_zeros(
            (supports[0].shape[0], context.out_channels, *first.shape)  # type: ignore[arg-type]
        )
        anchors = code(
            self.i, *self._mean_and_scale([torch.cat((s, unknown), 1) for s in supports]), first
        )
        around = context(anchors)
        others = code(
            self.i, *self._mean_and_scale([torch.cat((s, around), 1) for s in supports]), ~first
        )
        return anchors + others


def checkerboard(x: Float[Tensor, "b c h w"]) -> Bool[Tensor, "h w"]:
    """Return the positions of the first colour on a map like ``x``."""
    h, w = x.shape[-2:]
    rows, columns = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
    return (rows[:, None] + columns[None, :]) % 2 == 1


class _InUnits:
    """A `SliceCoder` whose means, scales and values are in the networks' units."""

    def __init__(self, code: SliceCoder, gain: Tensor) -> None:
        self.code, self.gain = code, gain

    def __call__(self, i: int, mean: Tensor, scale: Tensor, where: Tensor | None) -> Tensor:
        return self.code(i, mean * self.gain, scale * self.gain, where) / self.gain


def walk_slices(
    slices: nn.ModuleList,
    features: Sequence[Tensor],
    code: SliceCoder,
    gain: Float[Tensor, "#b m 1 1"] | None = None,
    settle: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "b m h w"]:
    """Walk over the slices, each seeing what the model lets it see, and return ŷ whole.

    Args:
        slices: the networks of each slice.
        features: hyper synthesis outputs.
        code: gives ŷ of a slice where its mean and scale are known.
        gain: quantisation steps per unit of the networks, for each channel; None: one.
        settle: maps refined values, in quantisation steps, to those that later slices see.
    """
    widths = [slice_codec.width for slice_codec in slices]
    gains = [None] * len(widths) if gain is None else gain.split(widths, 1)
    decoded: list[Tensor] = []
    for slice_codec, own_gain in zip(slices, gains, strict=True):
        y_hat = slice_codec(features, decoded, code, own_gain)
        if settle is not None and slice_codec.lrp is not None:
            y_hat = settle(y_hat) if own_gain is None else settle(y_hat * own_gain) / own_gain
        decoded.append(y_hat)
    y_hat = torch.cat(decoded, 1)
    return y_hat if gain is None else y_hat * gain


def slice_costs(
    config: EntropyModelConfig, latent_channels: int, height: int, width: int
) -> dict[str, Cost]:
    """Cost of all slices on a latent of ``height`` x ``width``, by part.

    Raises:
        NoFormula: the attention module has no closed formula.
    """
    paths = len(config.hyper_outputs(latent_channels))
    parts = {"attention": Cost(), "slice_heads": Cost(), "lrp": Cost()}
    for i, s in enumerate(config.slice_widths(latent_channels)):
        support = config.support_channels(i, latent_channels)
        parts["attention"] += paths * config.attention.cost(support, height, width)
        if config.hidden is None:
            continue
        context = 2 * s if config.checkerboard else 0
        head = _network_cost(support + context, config.hidden, 2 * s // paths, height, width)
        parts["slice_heads"] += paths * head
        if config.checkerboard:  # a second pass with the same weights, and the context
            parts["slice_heads"] += paths * Cost(head.macs, {}, head.activations)
            parts["slice_heads"] += conv_cost(s, context, 5, height, width)
        if config.lrp != "none":
            parts["lrp"] += _network_cost(support + s, config.hidden, s, height, width)
    return parts


def _network_cost(c_in: int, hidden: Sequence[int], c_out: int, height: int, width: int) -> Cost:
    widths = (c_in, *hidden, c_out)
    return sum(
        (conv_cost(a, b, 3, height, width) for a, b in pairwise(widths)),
        Cost(),
    )

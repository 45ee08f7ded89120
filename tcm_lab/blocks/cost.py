"""Closed formulas for a layer's cost: multiply-accumulates and parameters, by kind of operator.

The unit is the MAC. Costs can be added, and multiplied by a count, so that a block's formula reads
like the block. Biases, activations and softmax are not products and are not counted. Normalisation
has a kind of its own (one MAC per element: gain and offset), so that a total can leave it out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from pydantic import ConfigDict, NonNegativeInt


class Kind(StrEnum):
    """Kind of operator that needs the MACs or holds the parameters."""

    CONVOLUTION = "convolution"
    LINEAR = "linear"
    ATTENTION = "attention"  # the products q·k and weights·v: no parameters of their own
    GDN = "gdn"  # the 1x1 product inside (inverse) generalised divisive normalisation
    NORMALISATION = "normalisation"
    POSITION = "position"  # relative position bias: parameters only
    PRIOR = "prior"  # factorised prior of the hyper latent: parameters only
    GAIN = "gain"  # rate conditioning's gain vectors
    ELEMENTWISE = "elementwise"  # activations and softmax, which some tools count; no formula does
    OTHER = "other"


@dataclass(frozen=True)
class Cost:
    """MACs, parameters and activations, from a layer's formula to a stored record.

    As a field of a pydantic model, it is validated, and written to and read from JSON. Kinds whose
    count is zero are left out, so that equal costs compare equal.

    Attributes:
        macs: multiply-accumulates of one image, by kind.
        parameters: learnable scalars, by kind.
        activations: output elements of convolutions, linear layers and attention products.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    macs: Mapping[Kind, NonNegativeInt] = field(default_factory=dict)
    parameters: Mapping[Kind, NonNegativeInt] = field(default_factory=dict)
    activations: NonNegativeInt = 0

    def __post_init__(self) -> None:
        for name in ("macs", "parameters"):
            counts = {kind: count for kind, count in getattr(self, name).items() if count}
            object.__setattr__(self, name, counts)

    @property
    def total_macs(self) -> int:
        """MACs of all kinds, normalisation included."""
        return sum(self.macs.values())

    @property
    def total_parameters(self) -> int:
        """Learnable scalars of all kinds."""
        return sum(self.parameters.values())

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            Counter(self.macs) + Counter(other.macs),
            Counter(self.parameters) + Counter(other.parameters),
            self.activations + other.activations,
        )

    def __mul__(self, count: int) -> Cost:
        return Cost(
            {kind: count * macs for kind, macs in self.macs.items()},
            {kind: count * scalars for kind, scalars in self.parameters.items()},
            count * self.activations,
        )

    __rmul__ = __mul__


def conv_cost(
    c_in: int, c_out: int, kernel: int, height: int, width: int, *, groups: int = 1
) -> Cost:
    """Return the cost of a convolution with bias, whose output is ``height`` x ``width``."""
    weights = c_out * (c_in // groups) * kernel**2
    return Cost(
        {Kind.CONVOLUTION: weights * height * width},
        {Kind.CONVOLUTION: weights + c_out},
        c_out * height * width,
    )


def depthwise_cost(channels: int, kernel: int, height: int, width: int) -> Cost:
    """Return the cost of a depth-wise convolution with bias on ``height`` x ``width``."""
    return conv_cost(channels, channels, kernel, height, width, groups=channels)


def transposed_conv_cost(
    c_in: int, c_out: int, kernel: int, stride: int, height: int, width: int
) -> Cost:
    """Return the cost of a transposed convolution with bias on ``height`` x ``width`` inputs.

    Every input position spreads its kernel over the output.
    """
    spread = conv_cost(c_in, c_out, kernel, height, width)
    return replace(spread, activations=c_out * height * width * stride**2)


def linear_cost(c_in: int, c_out: int, tokens: int) -> Cost:
    """Return the cost of a linear layer with bias over ``tokens`` positions."""
    return Cost(
        {Kind.LINEAR: c_in * c_out * tokens},
        {Kind.LINEAR: c_in * c_out + c_out},
        c_out * tokens,
    )


def layer_norm_cost(channels: int, tokens: int) -> Cost:
    """Return the cost of a layer normalisation with gain and offset over ``tokens`` positions."""
    return Cost({Kind.NORMALISATION: channels * tokens}, {Kind.NORMALISATION: 2 * channels})


def gdn_cost(channels: int, height: int, width: int) -> Cost:
    """Return the cost of a generalised divisive normalisation: a 1x1 product of the squares."""
    return Cost(
        {Kind.GDN: channels**2 * height * width},
        {Kind.GDN: channels**2 + channels},
        channels * height * width,
    )


def window_attention_cost(
    channels: int, head_dim: int, window_size: int, height: int, width: int
) -> Cost:
    """Return the cost of a `WindowAttention` over all windows that cover ``height`` x ``width``.

    A partial window at the border is padded to a whole one, and counted as one. A shifted window
    costs as much as a plain one: its masked pairs are computed and then ignored.
    """
    heads = channels // head_dim
    tokens = -(-height // window_size) * -(-width // window_size) * window_size**2
    return (
        linear_cost(channels, 3 * channels, tokens)
        + window_products_cost(channels, head_dim, window_size, height, width)
        + Cost({}, {Kind.POSITION: heads * (2 * window_size - 1) ** 2})
        + linear_cost(channels, channels, tokens)
    )


def window_products_cost(
    channels: int, head_dim: int, window_size: int, height: int, width: int
) -> Cost:
    """Return the cost of q·kᵀ and weights·v in all windows that cover ``height`` x ``width``."""
    tokens = window_size**2
    windows = -(-height // window_size) * -(-width // window_size)
    return Cost(
        {Kind.ATTENTION: windows * 2 * tokens**2 * channels},
        {},
        windows * (channels // head_dim * tokens**2 + tokens * channels),
    )


def bottleneck_cost(channels: int, inner: int, height: int, width: int) -> Cost:
    """Return the cost of a 1x1 convolution to ``inner`` channels, a 3x3 one, and a 1x1 one back."""
    return (
        conv_cost(channels, inner, 1, height, width)
        + conv_cost(inner, inner, 3, height, width)
        + conv_cost(inner, channels, 1, height, width)
    )


def hidden_width(channels: int, ratio: float) -> int:
    """Return the width of a hidden layer: ``ratio`` times its input's, but at least one."""
    return max(round(ratio * channels), 1)


def mlp_cost(channels: int, hidden: int, tokens: int) -> Cost:
    """Return the cost of a two-layer perceptron over ``tokens`` positions."""
    return linear_cost(channels, hidden, tokens) + linear_cost(hidden, channels, tokens)


def residual_block_cost(channels: int, height: int, width: int) -> Cost:
    """Return the cost of CompressAI's `ResidualBlock` with equal widths: two 3x3 convolutions."""
    return 2 * conv_cost(channels, channels, 3, height, width)

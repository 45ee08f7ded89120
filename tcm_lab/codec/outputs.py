"""Results of a codec: of a forward pass, and of coding to bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor


class Likelihoods(TypedDict):
    """Likelihoods of y and z, whose negative logarithms are bits."""

    y: Tensor
    z: Tensor


class CodecOutput(TypedDict):
    """Result of a forward pass: the image and its likelihoods."""

    x_hat: Tensor
    likelihoods: Likelihoods


@dataclass(frozen=True)
class Latent:
    """The latent that an entropy model codes, and the other inputs of that model.

    Attributes:
        y: the latent, (B, M, h, w), in quantisation steps.
        features: the hyper synthesis' outputs.
        steps: quantisation steps per unit of each channel, (B or 1, M, 1, 1); None: one.
    """

    y: Tensor
    features: list[Tensor]
    steps: Tensor | None


class Coded(TypedDict, total=False):
    """The result of ``compress``, and the arguments of ``decompress``.

    ``strings``: y's streams and z's streams, one per image, and for a portable stream the encoder's
    decisions (see `tcm_lab.codec.portable`). ``shape``: (h, w) of z. ``size``: (H, W) of the image.
    ``rate``: rate level, if the codec has any. ``checksum``: CRC-32 of the symbols, and for a
    portable stream of all values agreed on.
    """

    strings: list[list[bytes]]
    shape: tuple[int, int]
    size: tuple[int, int]
    rate: float | None
    checksum: int

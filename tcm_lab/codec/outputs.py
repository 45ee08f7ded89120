"""What a codec returns: of a forward pass, and coded to bytes."""

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
    """What an entropy model codes, and what it knows beforehand.

    Attributes:
        y: the latent, (B, M, h, w), in quantisation steps.
        features: the hyper synthesis' outputs.
        steps: quantisation steps in a unit of each channel, (B or 1, M, 1, 1); None: one.
    """

    y: Tensor
    features: list[Tensor]
    steps: Tensor | None


class Coded(TypedDict, total=False):
    """What ``compress`` gives and ``decompress`` takes.

    ``strings``: y's streams and z's streams, one per image; of a portable stream also what the
    encoder decided (see `tcm_lab.codec.portable`). ``shape``: (h, w) of z. ``size``:
    (H, W) of the image. ``rate``: rate level, where the codec is conditioned on one. ``checksum``:
    CRC-32 of the symbols and of what they were coded with.
    """

    strings: list[list[bytes]]
    shape: tuple[int, int]
    size: tuple[int, int]
    rate: float | None
    checksum: int

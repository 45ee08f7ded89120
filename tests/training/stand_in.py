"""A tiny codec and a tiny source of crops, for testing the loop without a real architecture."""

from __future__ import annotations

import os
import signal

import torch
from torch import Tensor, nn

from tcm_lab._compat.torchvision import import_compressai

import_compressai()

from compressai.entropy_models import EntropyBottleneck, GaussianConditional  # noqa: E402
from compressai.models import CompressionModel  # noqa: E402


class TinyCodec(CompressionModel):
    """A codec with two strides, a factorised z and a conditional y; optional gains per level."""

    def __init__(self, levels: int = 0, width: int = 6) -> None:
        super().__init__()
        self.rate_levels = levels
        if levels:
            self.gain = nn.Parameter(torch.ones(levels, width))
        self.g_a = nn.Conv2d(3, width, 5, 4, 2)
        self.h_a = nn.Conv2d(width, 4, 3, 2, 1)
        self.h_s = nn.ConvTranspose2d(4, 2 * width, 4, 2, 1)
        self.g_s = nn.ConvTranspose2d(width, 3, 4, 4)
        self.entropy_bottleneck = EntropyBottleneck(4)
        self.gaussian_conditional = GaussianConditional(None)

    def forward(self, x: Tensor, rate: Tensor | None = None) -> dict[str, object]:
        y = 8 * self.g_a(x)
        gain = 1 if rate is None else self.gain[rate.long()][:, :, None, None]
        z_hat, z_likelihoods = self.entropy_bottleneck(self.h_a(y))
        scales, means = self.h_s(z_hat).chunk(2, 1)
        y_hat, y_likelihoods = self.gaussian_conditional(y * gain, scales.exp(), means)
        likelihoods = {"y": y_likelihoods, "z": z_likelihoods}
        return {"x_hat": self.g_s(y_hat / gain / 8), "likelihoods": likelihoods}


class RandomCrops:
    """Smooth random crops; can send a signal to its own process or return NaN at a given step."""

    fingerprint = "random"

    def __init__(
        self,
        side: int = 16,
        *,
        signal_at: tuple[int, signal.Signals] | None = None,
        nan_at: int | None = None,
    ) -> None:
        self.side, self.signal_at, self.nan_at = side, signal_at, nan_at

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Tensor:
        if self.signal_at is not None and step == self.signal_at[0]:
            os.kill(os.getpid(), self.signal_at[1])
        generator = torch.Generator().manual_seed(step)
        low = torch.rand(batch_size, 3, 4, 4, generator=generator)
        batch = nn.functional.interpolate(low, size=(self.side, self.side), mode="bilinear")
        if step == self.nan_at:
            batch[0] = float("nan")
        return batch.chunk(world)[rank]

"""A hyperprior codec as a user might write it: its own module names, CompressAI's interface."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.models import CompressionModel
from torch import Tensor, nn


def down(channels: int, out: int) -> nn.Module:
    return nn.Conv2d(channels, out, 5, stride=2, padding=2)


def up(channels: int, out: int) -> nn.Module:
    return nn.ConvTranspose2d(channels, out, 5, stride=2, padding=2, output_padding=1)


class Own(CompressionModel):
    """A codec with strides of 16 for y and 64 for z, and a matrix product outside any layer."""

    def __init__(self, width: int = 8, latent: int = 12) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            down(3, width), nn.ELU(), down(width, width), down(width, width), down(width, latent)
        )
        self.decoder = nn.Sequential(
            up(latent, width), nn.ELU(), up(width, width), up(width, width), up(width, 3)
        )
        self.hyper = nn.ModuleDict(
            {
                "down": nn.Sequential(down(latent, width), nn.ReLU(), down(width, width)),
                "up": nn.Sequential(up(width, width), nn.ReLU(), up(width, 2 * latent)),
            }
        )
        self.mixing = nn.Parameter(torch.eye(latent))
        self.entropy_bottleneck = EntropyBottleneck(width)
        self.gaussian_conditional = GaussianConditional(None)

    def _latent(self, x: Tensor) -> Tensor:
        y = self.encoder(x).permute(0, 2, 3, 1) @ self.mixing
        return y.permute(0, 3, 1, 2).contiguous()

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self._latent(x)
        z_hat, z_likelihoods = self.entropy_bottleneck(self.hyper["down"](y))
        scales, means = self.hyper["up"](z_hat).chunk(2, 1)
        y_hat, y_likelihoods = self.gaussian_conditional(y, scales, means=means)
        likelihoods = {"y": y_likelihoods, "z": z_likelihoods}
        return {"x_hat": self.decoder(y_hat), "likelihoods": likelihoods}

    def compress(self, x: Tensor) -> dict[str, Any]:
        y = self._latent(x)
        z = self.hyper["down"](y)
        z_strings = self.entropy_bottleneck.compress(z)
        z_hat = self.entropy_bottleneck.decompress(z_strings, z.shape[-2:])
        scales, means = self.hyper["up"](z_hat).chunk(2, 1)
        indexes = self.gaussian_conditional.build_indexes(scales)
        y_strings = self.gaussian_conditional.compress(y, indexes, means)
        return {"strings": [y_strings, z_strings], "shape": z.shape[-2:]}

    def decompress(self, strings: Any, shape: Any) -> dict[str, Tensor]:
        z_hat = self.entropy_bottleneck.decompress(strings[1], shape)
        scales, means = self.hyper["up"](z_hat).chunk(2, 1)
        indexes = self.gaussian_conditional.build_indexes(scales)
        y_hat = self.gaussian_conditional.decompress(strings[0], indexes, means=means)
        return {"x_hat": self.decoder(y_hat).clamp(0, 1)}


class Named(Own):
    """The same codec, which declares the roles of its modules."""

    parts: ClassVar = {"encoder": "g_a", "decoder": "g_s", "hyper.down": "h_a", "hyper.up": "h_s"}
    name = "named"


class Unsized(Own):
    """The same codec without default widths: it infers them from weights, as in CompressAI."""

    def __init__(self, width: int, latent: int) -> None:
        super().__init__(width, latent)

    @classmethod
    def from_state_dict(cls, state_dict: dict[str, Tensor]) -> Unsized:
        latent, width = state_dict["encoder.4.weight"].shape[:2]
        codec = cls(width, latent)
        codec.load_state_dict(state_dict)
        return codec


class Wordy(Own):
    """The same codec in the style of papers' code: times next to the bytes, no update options."""

    downsampling_factor = 64

    def update(self) -> bool:
        updated: bool = super().update(force=True)
        return updated

    def compress(self, x: Tensor) -> dict[str, Any]:
        coded = super().compress(x)
        y, z = ([bytearray(each) for each in strings] for strings in coded["strings"])
        return {"strings": [y, z], "shape": coded["shape"], "cost_time": {"y": 0.1}}

    def decompress(self, strings: Any, shape: Any) -> dict[str, Tensor]:
        return super().decompress([list(map(bytes, each)) for each in strings], shape)


class Mute(nn.Module):
    """A codec that estimates rates but cannot code."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"x_hat": self.net(x), "likelihoods": {"y": torch.full_like(x, 0.5)}}

    def compress(self, x: Tensor) -> dict[str, Any]:
        raise NotImplementedError("no coder yet")

    decompress = compress


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))


def make(width: int = 8) -> nn.Module:
    return Own(width)


def no_codec() -> str:
    return "codec"


NUMBER = 3


def features() -> nn.Module:
    """Return a network on features, not images."""
    return nn.Linear(8, 8)

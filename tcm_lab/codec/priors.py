"""Distributions of the hyper latent z."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tcm_lab._compat.torchvision import import_compressai
from tcm_lab.codec.coding import refuse_damaged_prior
from tcm_lab.codec.generalised_gaussian import LOWEST_SCALE, REACH, interval, tabulated, tail
from tcm_lab.codec.portable import Agreement, PriorCoder, bottleneck_reach

_compressai = import_compressai()
_EntropyModel: Any = _compressai.entropy_models.EntropyModel
_EntropyBottleneck: Any = _compressai.entropy_models.EntropyBottleneck


class FactorisedPrior(_EntropyBottleneck):
    """A learned density per channel: CompressAI's ``EntropyBottleneck`` (Ballé et al. 2018)."""

    def forward(
        self, z: Float[Tensor, "b n p q"], training: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return z with noise, or rounded in evaluation, and its likelihoods.

        They equal CompressAI's, whose code waits for a GPU twelve times to reorder dimensions.
        """
        by_channel = z.transpose(0, 1).contiguous()
        noise = self.training if training is None else training
        medians = self._get_medians()
        values = by_channel.flatten(1)[:, None]
        z_hat = self.quantize(values, "noise" if noise else "dequantize", medians)
        likelihoods = self.likelihood_lower_bound(self._likelihood(z_hat)[0])
        z_hat, likelihoods = (
            each.view(by_channel.shape).transpose(0, 1).contiguous()
            for each in (z_hat, likelihoods)
        )
        return z_hat, likelihoods

    def medians(self) -> Float[Tensor, "1 n 1 1"]:
        """Return the medians, from which symbols count whole steps."""
        medians: Tensor = self._get_medians().detach()[None]
        return medians.squeeze(-1)[..., None]

    def update(self, *args: Any, **kwargs: Any) -> bool:
        """Rebuild the coding tables, as CompressAI's does.

        Raises:
            CodingError: as `refuse_damaged_prior`.
        """
        bottleneck_reach(self)
        updated: bool = super().update(*args, **kwargs)
        return updated

    def portable(self, agree: Agreement) -> PriorCoder:
        """Return a coder of z that is the same on every machine; called in float64."""
        return PriorCoder.of_bottleneck(self, agree)


class GeneralisedGaussianPrior(_EntropyModel):
    """A learned mean and scale per channel of a generalised Gaussian (HPCM, Li et al. 2025)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.scales = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.lower_bound_scale = _compressai.ops.LowerBound(LOWEST_SCALE)

    def forward(self, z: Float[Tensor, "b n p q"]) -> tuple[Tensor, Tensor]:
        """Return z with noise, or rounded in evaluation, and its likelihoods."""
        z_hat: Tensor = self.quantize(z, "noise" if self.training else "dequantize", self.means)
        values = interval((z_hat - self.means).abs(), self.lower_bound_scale(self.scales))
        return z_hat, self.likelihood_lower_bound(values)

    def medians(self) -> Float[Tensor, "1 n 1 1"]:
        """Return the medians, from which symbols count whole steps."""
        return self.means.detach()

    def compress(self, z: Float[Tensor, "b n p q"]) -> list[bytes]:
        """Write one stream per image."""
        coder = self._coder(_to_nearest)
        return coder.encode(coder.symbols(z))

    def decompress(self, strings: Sequence[bytes], shape: Sequence[int]) -> Tensor:
        """Read ẑ (B, N, p, q) of one stream per image."""
        coder = self._coder(_to_nearest)
        return coder.values(coder.decode(strings, shape))

    def portable(self, agree: Agreement) -> PriorCoder:
        """Return a coder of z that is the same on every machine; called in float64."""
        return self._coder(agree)

    def _coder(self, agree: Callable[[Tensor], Tensor]) -> PriorCoder:
        scales = self.scales.detach().flatten(1).clamp(min=LOWEST_SCALE).T
        reach = (scales * REACH).ceil()
        refuse_damaged_prior(self, 2 * reach[:, 0] + 1)
        steps = torch.arange(2 * int(reach.max()) + 1, device=scales.device) - reach
        # The last column holds both tails, which begin half a step beyond the last symbol.
        masses = (tabulated(steps, scales), 2 * tail((reach + 0.5) / scales))
        counts = torch.cat(masses, 1) * 2**16
        rows = agree(counts.flatten()[None]).view(counts.shape)
        lowest, length = -reach[:, 0], 2 * reach[:, 0].long() + 1
        return PriorCoder(self.means.detach().flatten(), lowest, length, rows)


def _to_nearest(counts: Tensor) -> Tensor:
    return (counts + 0.5).floor().long()  # halves upwards, as the coder rounds them


#: Priors by ``EntropyModelConfig.prior``; each is built with the number of channels of z.
PRIORS: Mapping[str, Any] = {
    "factorised": FactorisedPrior,
    "generalised-gaussian": GeneralisedGaussianPrior,
}

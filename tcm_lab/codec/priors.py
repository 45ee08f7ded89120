"""Distributions of the hyper latent z."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor

from tcm_lab._compat.torchvision import import_compressai
from tcm_lab.codec.portable import Agreement, PriorCoder

_EntropyBottleneck: Any = import_compressai().entropy_models.EntropyBottleneck


class HyperPrior(Protocol):
    """What the codec asks of z's distribution, a module over so many channels.

    Called with z it returns z with noise, or rounded in evaluation, and its likelihoods.
    """

    def medians(self) -> Float[Tensor, "1 n 1 1"]:
        """Return what symbols are whole steps from."""
        ...

    def compress(self, z: Float[Tensor, "b n p q"]) -> list[bytes]:
        """Write one stream per image."""
        ...

    def decompress(self, strings: Sequence[bytes], shape: Sequence[int]) -> Tensor:
        """Read ẑ (B, N, p, q) of one stream per image."""
        ...

    def portable(self, agree: Agreement) -> PriorCoder:
        """Return what codes z the same on every machine; called in float64."""
        ...


class FactorisedPrior(_EntropyBottleneck):
    """A learned density per channel: CompressAI's ``EntropyBottleneck`` (Ballé et al. 2018)."""

    def medians(self) -> Float[Tensor, "1 n 1 1"]:
        """Return what symbols are whole steps from."""
        medians: Tensor = self._get_medians().detach()[None]
        return medians.squeeze(-1)[..., None]

    def portable(self, agree: Agreement) -> PriorCoder:
        """Return what codes z the same on every machine; called in float64."""
        return PriorCoder(self, agree)


#: What ``EntropyModelConfig.prior`` names: each is built with the channels of z.
PRIORS: Mapping[str, Any] = {"factorised": FactorisedPrior}

"""CCA's loss, which moves information into early slices of the latent, where later ones use it.

Han et al. 2024, "Causal Context Adjustment Loss for Learned Image Compression", NeurIPS,
arXiv 2410.04847.

An auxiliary entropy model codes the same latent from the same hyper outputs, but each slice without
the preceding one. The extra bits it needs are what knowing that slice saves, and the loss subtracts
``cca`` times this saving. The auxiliary model learns to code as well as it can, and the codec
learns to make that hard. The auxiliary model is part of the training, never of the codec.

The authors' α over β is our ``cca``, and their β is part of our λ. In their code the auxiliary
weights follow the gradient of the codec's loss, which rewards them for predicting badly, and a
third term counteracts this. Here the gradient is reversed between codec and auxiliary model.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tcm_lab.codec import CodecAdapter, Latent, VariantConfig, bits
from tcm_lab.errors import ConfigError
from tcm_lab.training.recipe import Recipe


def check_cca(recipe: Recipe, config: VariantConfig | None) -> None:
    """Refuse CCA's loss for a codec whose slices don't see the preceding slice.

    Args:
        recipe: the recipe of the training.
        config: the codec's configuration; ``None`` if it was not assembled here.

    Raises:
        ConfigError: the codec can't be trained with CCA's loss.
    """
    if not recipe.cca or (config and config.entropy_model.is_chain(config.latent_channels)):
        return
    fix = "Set cca to 0, or entropy_model.type to slices, dictionary or multi-context"
    if config is None:
        what = "this codec has none of ours"
    else:
        what = f"entropy_model.type = {config.entropy_model.type} of {config.name} has none"
        if config.entropy_model.type == "slices":
            fix = "Set cca to 0, or give the entropy model two slices or more, and support"
    raise ConfigError(
        f"cca = {recipe.cca:g}: needs an entropy model whose slices see the preceding slice; "
        f"{what}. {fix}."
    )


class CausalContext(nn.Module):
    """The auxiliary entropy model of a codec: like its own, but without the preceding slice.

    Args:
        codec: the codec whose entropy model is copied.
        weight: weight of the saved bits in the loss, where the rate's is 1.
    """

    def __init__(self, codec: Any, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.entropy_model: nn.Module = codec.entropy_model.lagged()

    @classmethod
    def of(cls, codec: nn.Module, recipe: Recipe) -> CausalContext | None:
        """Return the auxiliary entropy model that a recipe requires; ``None`` without CCA's loss.

        Raises:
            ConfigError: as `check_cca`.
        """
        check_cca(recipe, CodecAdapter(codec).config)
        return cls(codec, recipe.cca) if recipe.cca else None

    def copy_from(self, codec: Any) -> None:
        """Copy the weights of the codec's entropy model again."""
        self.entropy_model.load_state_dict(codec.entropy_model.state_dict())

    def forward(self, codec: Any, latent: Latent) -> Tensor:
        """Return the bits of each image's y, (B,), coded without the preceding slice.

        Minimising them teaches this model to code. The codec receives their gradient multiplied by
        ``-weight``, which teaches it to make the preceding slice informative.
        """
        opposed = Latent(
            self._opposed(latent.y),
            [self._opposed(feature) for feature in latent.features],
            None if latent.steps is None else self._opposed(latent.steps),
        )
        _, likelihoods = codec.estimate_latent(self.entropy_model, opposed)
        return bits({"y": likelihoods})

    def _opposed(self, value: Tensor) -> Tensor:
        """Return ``value`` with its gradient multiplied by ``-weight``."""
        fixed = value.detach()
        return fixed - self.weight * (value - fixed)

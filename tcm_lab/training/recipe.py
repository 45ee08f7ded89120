"""Training recipes as data: the published one, a short one, and those for two cores."""

from __future__ import annotations

import logging
import math
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from tcm_lab._utils import Frozen
from tcm_lab.errors import ConfigError, LabError, lookup

logger = logging.getLogger(__name__)

_FAR_ABOVE = 3.0
_MS_SSIM_LAMBDAS = (2.4, 60.5)  # CompressAI's lowest and highest
_MSE_LAMBDA = 0.0018 / 2.4  # λ of the squared error per λ of 1 - MS-SSIM, at CompressAI's lowest
_LATER = ("orthogonality", "cca", "cooldown")  # fields that early versions lack
_LARGEST = 1e9  # for any rate or weight; a larger one is a typing mistake


class Recipe(Frozen):
    """Everything that determines the trained weights, apart from the data and the codec.

    Attributes:
        name: name of the recipe in records.
        lambdas: rate-distortion weights, ascending; loss = lambda * 255^2 * MSE + bpp, or
            lambda * (1 - MS-SSIM) + bpp, as in CompressAI. A rate-conditioned codec learns all of
            them in one run, level by level; any other codec takes exactly one. Empty: values suited
            to the number of latent channels, see `suited_lambdas`.
        metric: distortion to minimise.
        steps: updates of the weights.
        batch: crops per step over all processes.
        crop: side of a crop in pixels.
        optimizer: ``adam``, or ``muon`` for the matrices of g_a and g_s and Adam for the rest.
        lr: learning rate of Adam.
        matrix_lr: learning rate of Muon.
        entropy_lr: learning rate of h_a, h_s and the slices' networks; ``None`` is ``lr``, which
            the factorised prior of z always has.
        orthogonality: weight in the loss of the distance from orthogonality of the projections of
            ``shortcut: wavelet``; 0.1 as published.
        cca: weight, where the rate's is 1, of the bits that a slice of the latent saves its
            successor. The loss subtracts them, which moves information into early slices (Han et
            al. 2024, "Causal Context Adjustment Loss"). 0 turns it off; the paper's values lie
            between about 0.07 and 3. Needs an entropy model with slices, and trains a second one.
        shortcut_lr: learning rate of the shortcuts ``patch`` and ``staged``; 0 keeps their weights.
            ``None`` is 0 after a linear start, which fits them, and ``lr`` otherwise. Wavelet paths
            learn like all other layers.
        schedule: ``drops`` multiplies ``lr`` by 0.1 at each of ``lr_drops``; ``cosine`` lowers it
            to a hundredth along half a cosine; ``constant`` keeps it and lowers it only at the end,
            over ``cooldown``. Until then a training is the beginning of any longer one, so budgets
            are comparable, and a study's rungs equal trainings of that many steps.
        lr_drops: shares of ``steps`` after which the rate drops.
        cooldown: share of the steps, at the end, over which a constant rate falls to a hundredth,
            as 1 minus the square root of the progress (Hägele et al. 2024, "Scaling laws and
            compute-optimal training beyond fixed training durations").
        warmup: steps over which the rate rises linearly from zero.
        aux_lr: learning rate of the auxiliary optimiser (quantiles of the factorised prior).
        start: how the weights are prepared before the first update: ``linear`` makes the codec a
            linear transform fitted to the data, by its shortcuts or, without any, by its resamplers
            (codecs that are not assembled here are calibrated); ``calibrate`` scales the latent up
            to the quantisation step; ``none`` keeps the weights as they are, random or given.
        linear_steps: updates of the linear phase between a linear start and the first of ``steps``.
            It trains the entropy model alone, on the latent of the linear transform, so variants
            that differ only in g_a and g_s share it; 0 skips the phase.
        linear_batch: crops per step of the linear phase.
        linear_lr: learning rate of the linear phase, decayed along a cosine; above 128 latent
            channels M, times (128 / M)².
        clip_norm: bound on the norm of the main gradient.
        ema: decay of the exponential moving average of the weights; 0 is off.
        precision: ``32-true``, torch's float32: a GPU's convolutions then use TF32, unless
            ``torch.backends.cudnn.allow_tf32`` is off; or ``bf16-mixed``, with the entropy models
            kept in float32.
        channels_last: store images and weights with the channels innermost.
        compile: run the codec through ``torch.compile``.
        checkpoint_every: steps between checkpoints.
        seed: seed of every random choice in the training.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    name: str = "custom"
    lambdas: tuple[Annotated[float, Field(gt=0, le=_LARGEST)], ...] = ()
    metric: Literal["mse", "ms-ssim"] = "mse"
    steps: int = Field(gt=0, le=10**9)
    batch: int = Field(default=8, gt=0, le=2**16)
    crop: int = Field(default=256, gt=0, le=2**16)
    optimizer: Literal["adam", "muon"] = "adam"
    lr: float = Field(default=1e-4, gt=0, le=_LARGEST)
    matrix_lr: float = Field(default=2e-3, gt=0, le=_LARGEST)
    entropy_lr: float | None = Field(default=None, gt=0, le=_LARGEST)
    orthogonality: float = Field(default=0.1, ge=0, le=_LARGEST)
    cca: float = Field(default=0.0, ge=0, le=_LARGEST)
    shortcut_lr: float | None = Field(default=None, ge=0, le=_LARGEST)
    schedule: Literal["drops", "cosine", "constant"] = "drops"
    lr_drops: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    cooldown: float = Field(default=0.2, gt=0, lt=1)
    warmup: int = Field(default=0, ge=0, le=10**9)
    aux_lr: float = Field(default=1e-3, gt=0, le=_LARGEST)
    start: Literal["linear", "calibrate", "none"] = "none"
    linear_steps: int = Field(default=0, ge=0, le=10**9)
    linear_batch: int = Field(default=8, gt=0, le=2**16)
    linear_lr: float = Field(default=5e-3, gt=0, le=_LARGEST)
    clip_norm: float = Field(default=1.0, gt=0, le=_LARGEST)
    ema: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    channels_last: bool = False
    compile: bool = False
    checkpoint_every: int = Field(default=1000, gt=0, le=10**9)
    seed: int = Field(default=0, ge=0, le=2**32)

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if list(self.lambdas) != sorted(set(self.lambdas)):
            raise ConfigError(f"lambdas {self.lambdas}: give distinct values in ascending order.")
        if self.metric == "ms-ssim" and self.crop <= 160:
            raise ConfigError(
                f"crop {self.crop}: MS-SSIM's five scales need crops above 160; use 192 or 256."
            )
        if self.linear_steps and self.start != "linear":
            raise ConfigError(f"linear_steps {self.linear_steps}: requires start linear.")
        if self.shortcut_lr is None and self.start == "linear":
            object.__setattr__(self, "shortcut_lr", 0.0)
            self.model_fields_set.discard("shortcut_lr")  # so it is None again after another start
        return self

    @property
    def middle_lambda(self) -> float:
        """The geometric mean of the lowest and highest λ, on the squared error's scale."""
        scale = 1.0 if self.metric == "mse" else _MSE_LAMBDA
        return scale * math.sqrt(self.lambdas[0] * self.lambdas[-1])

    def with_lambdas(self, *lambdas: float) -> Recipe:
        """Return this recipe with other rate-distortion weights."""
        return self.changed(lambdas=tuple(lambdas))

    def per_lambda(self) -> list[Recipe]:
        """Return one recipe per λ, for codecs that need a training for each rate."""
        return [self.with_lambdas(lmbda) for lmbda in self.lambdas]

    def spread(self, levels: int) -> Recipe:
        """Return this recipe with ``levels`` λ, spaced geometrically from its first to its last.

        A recipe without λ is returned unchanged; see `suited`.

        Raises:
            ConfigError: the recipe has a single λ, or ``levels`` is below 2.
        """
        if not self.lambdas or levels == len(self.lambdas):
            return self
        low, high = self.lambdas[0], self.lambdas[-1]
        if levels < 2 or low == high:
            raise ConfigError(
                f"lambdas {self.lambdas}: cannot be spread over {levels} rate levels. "
                "Give as many lambdas as the codec has levels."
            )
        return self.with_lambdas(
            *(low * (high / low) ** (level / (levels - 1)) for level in range(levels))
        )

    def suited(self, latent_channels: int, rate_levels: int) -> Recipe:
        """Return this recipe for a codec; if it has no λ, with those that suit the latent.

        Raises:
            LabError: the codec has another number of rates, or no suitable λ are known.
        """
        low, high = suited_lambdas(latent_channels)
        if not self.lambdas and self.metric == "ms-ssim":
            lowest, highest = _MS_SSIM_LAMBDAS
            raise LabError(
                f"metric = ms-ssim: needs lambdas of its own, such as {lowest:g} to {highest:g}; "
                "lambdas suited to a latent are known only for the squared error."
            )
        if not self.lambdas:
            if rate_levels < 2:
                return self.with_lambdas(math.sqrt(low * high))
            return self.with_lambdas(low, high).spread(rate_levels)
        if len(self.lambdas) != max(rate_levels, 1):
            count = len(self.lambdas)
            needed = (
                f"a codec with {rate_levels} rate levels needs {rate_levels} lambdas"
                if rate_levels
                else "a codec with one rate needs one lambda; for several, set rate_levels to "
                f"{count} (--rate-levels {count})"
            )
            raise LabError(f"lambdas = {list(self.lambdas)}: {needed}.")
        if self.metric == "mse" and self.lambdas[-1] > _FAR_ABOVE * high:
            logger.warning(
                "lambdas up to %g: %d latent channels suit up to about %.2g; above, bits buy "
                "little quality. Give lower lambdas, or more latent_channels.",
                self.lambdas[-1], latent_channels, high,
            )  # fmt: skip
        if self.metric == "ms-ssim" and self.lambdas[-1] < _MS_SSIM_LAMBDAS[0] / _FAR_ABOVE:
            logger.warning(
                "lambdas up to %g: weigh 1 - MS-SSIM, which is small, too little for a codec to "
                "spend bits on. Give higher lambdas, such as %g to %g.",
                self.lambdas[-1], *_MS_SSIM_LAMBDAS,
            )  # fmt: skip
        return self

    def changed(self, **fields: object) -> Recipe:
        """Return this recipe with some fields changed.

        Raises:
            ConfigError: a field is unknown or out of range.
        """
        return Recipe.parse(self.model_dump(exclude_unset=True) | fields, "recipe: ")

    def without_start(self) -> Recipe:
        """Return this recipe without its start, which would replace the codec's weights.

        It treats the shortcuts as this one does: after a linear start, they keep their weights.
        """
        return self.changed(start="none", linear_steps=0, shortcut_lr=self.shortcut_lr)

    def identity(self) -> dict[str, Any]:
        """Return the fields that determine the trained weights.

        A field that was added later is omitted at its default, under which earlier versions
        trained, so that their trainings are still recognised.
        """
        tree = self.model_dump(mode="json", exclude={"name", "checkpoint_every"})
        defaults = {name: Recipe.model_fields[name].default for name in _LATER}
        return {name: v for name, v in tree.items() if name not in _LATER or v != defaults[name]}

    @property
    def cooldown_begins(self) -> int:
        """The step after which a constant rate falls; metrics are reported at this step."""
        return int((1 - self.cooldown) * self.steps / 10 + 1e-9) * 10

    @property
    def comparable_until(self) -> int:
        """The last step with a comparable loss: where a cooldown begins, or the end."""
        return self.cooldown_begins if self.schedule == "constant" else self.steps

    def lr_factor(self, step: int) -> float:
        """Return the factor of ``lr`` at ``step``, counted from 0."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        if self.schedule == "drops":
            return rise * 0.1 ** sum(step >= share * self.steps for share in self.lr_drops)
        if self.schedule == "constant":
            way = (step - self.cooldown_begins) / max(self.steps - self.cooldown_begins, 1)
            left = 1 - math.sqrt(max(way, 0.0))
        else:
            left = (1 + math.cos(math.pi * step / self.steps)) / 2
        return rise * (0.01 + 0.99 * left)


def suited_lambdas(latent_channels: int) -> tuple[float, float]:
    """Return the lowest and highest λ suited to a latent with this number of channels.

    The principal components of 16x16 patches limit the quality that a latent can keep: 64 of 768
    keep 30.2 dB, 128 keep 33.9 and 192 keep 37.2 (crops of eleven photographs). Above the higher λ,
    more bits buy little quality. From 320 channels on, the range is the published one.
    """
    high = min(0.05, 0.0045 * (latent_channels / 64) ** 1.4)
    return min(0.0025, high / 15), high


_PUBLISHED_LAMBDAS = (0.0025, 0.0035, 0.0067, 0.013, 0.025, 0.05)

# A linear start, its phase, then everything: one crop of 256 per step, since smaller ones cost bits
# on whole images. The learning rates were tuned on tcm-nano: Muon above 2e-3 was worse.
_LINEAR = Recipe(
    steps=1,
    batch=1,
    crop=256,
    optimizer="muon",
    lr=2e-3,
    matrix_lr=2e-3,
    entropy_lr=3e-4,
    schedule="cosine",
    warmup=20,
    aux_lr=1e-2,
    start="linear",
    linear_steps=150,
    channels_last=True,
    checkpoint_every=100,
)

RECIPES: dict[str, Recipe] = {
    # tcm-nano on two cores, at λ suited to its latent: about a minute, ten minutes and an hour.
    "minute": _LINEAR.changed(name="minute", steps=150, linear_steps=60),
    "laptop": _LINEAR.changed(name="laptop", steps=1000),
    "hour": _LINEAR.changed(name="hour", steps=8000, linear_steps=400, ema=0.999),
    # A variant of tcm-nano in about three minutes; the beginning of any longer training.
    "study": _LINEAR.changed(name="study", steps=500, schedule="constant"),
    # jmliu206/LIC_TCM, README and train.py: 50 epochs of 300,000 images at batch 8,
    # with rate drops at epochs 45 and 48.
    "published": Recipe(
        name="published",
        lambdas=_PUBLISHED_LAMBDAS,
        steps=1_875_000,
        lr_drops=(0.9, 0.96),
        checkpoint_every=5000,
    ),
    # A ranking of variants in GPU hours rather than weeks.
    "short": Recipe(
        name="short",
        lambdas=_PUBLISHED_LAMBDAS,
        steps=50_000,
        lr=2e-4,
        lr_drops=(0.8, 0.92),
        warmup=500,
        start="calibrate",
        ema=0.999,
        checkpoint_every=1000,
    ),
    # From random weights, for comparison with a linear start. A crop this small has a single
    # position of z and fewer of y than an attention window. For a few hundred steps the number of
    # crops matters more, but a codec trained on them for a thousand steps spends several times the
    # bits on whole images; use 128 for that.
    "scratch": Recipe(
        name="scratch",
        lambdas=_PUBLISHED_LAMBDAS,
        steps=800,
        batch=8,
        crop=64,
        lr=1e-3,
        schedule="cosine",
        warmup=20,
        start="calibrate",
        aux_lr=1e-2,
        checkpoint_every=200,
    ),
}


def get_recipe(name: str, **changes: object) -> Recipe:
    """Return the recipe called ``name``, with some fields changed.

    Raises:
        ConfigError: there is no such recipe, or a changed field is out of range.
    """
    return lookup(RECIPES, name, "recipe").changed(**changes)

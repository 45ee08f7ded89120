"""The interface of an entropy model, and its registry.

An entropy model is a configuration and the module that it builds. The configuration states what the
module needs and costs; the module turns the outputs of the hyper synthesis into ŷ through a
`Coder`. The codec does everything else (likelihoods, bytes, checksums, portable streams, counting
by part, analyses, rate levels, checkpoints), in the same way for all entropy models.

A module alone is enough to begin with::

    @tcm_lab.register_entropy_model("mine")
    class Mine(nn.Module):
        def __init__(self, channels: int, kernel: int = 3) -> None:
            super().__init__()
            self.head = nn.Conv2d(2 * channels, 2 * channels, kernel, padding=kernel // 2)
            self.channels = channels

        def forward(self, features: Sequence[Tensor], code: Coder) -> Tensor:
            mean, scale = self.head(features[0]).chunk(2, 1)
            return code(Channels(0, self.channels), mean, scale)

Select it by ``entropy_model: {type: mine, kernel: 5}``. To give a closed formula for its
cost, or to change the defaults below, register a subclass of `EntropyModelConfig` instead.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

from jaxtyping import Float
from pydantic import ValidationError
from torch import Tensor, nn

from tcm_lab.blocks import FINGERPRINT, Cost, Kind, LayerConfig, LayerRegistry, NoFormula
from tcm_lab.codec.distributions import SCALE_TABLES, Distribution
from tcm_lab.codec.entropy_models.coder import Coder
from tcm_lab.errors import ConfigError, validation_message

#: Factor on the weights of an initialised output, which still differs between positions.
_NARROWED = 0.3


class EntropyModel(Protocol):
    """The interface of an entropy model's module.

    The module may also have a method ``start_at(mean, scale, h_s)`` that makes it predict this mean
    and scale (M,) for every image; training that starts from the data's statistics calls it. If the
    configuration's ``is_chain`` returns true, the module has a method ``lagged()`` that returns a
    copy with the same parameters whose slices do not see the slice just before them; see
    `SliceChain`.
    """

    def forward(self, features: Sequence[Tensor], code: Coder) -> Float[Tensor, "b m h w"]:
        """Return the whole ŷ, as the synthesis receives it.

        Code every element of the latent once. Means and scales may depend on the features and on
        the ŷ coded before, and on nothing else. Compute in the dtype of the features: portable
        streams run this in float64.

        Args:
            features: the hyper synthesis' outputs, in the order of ``hyper_outputs``.
            code: returns ŷ at places whose mean and scale are given.
        """
        ...


class EntropyModelConfig(LayerConfig):
    """Options of an entropy model.

    Attributes:
        scale_table: scales that the coder distinguishes. With ``fine``, each scale uses the nearest
            of 256, and the estimate counts what the coder spends; with ``compressai``, the next
            larger of its 64, and bytes and estimate are those of the authors' code.
        normalised: whether the networks see the latent in units of each channel's spread, measured
            when training starts from data, instead of in quantisation steps.
    """

    later: ClassVar[tuple[str, ...]] = ("scale_table", "normalised")
    #: The codec's name for the module, in names of weights and layers.
    module_name: ClassVar[str] = "context_model"
    #: The distribution of z, a key of `tcm_lab.codec.priors.PRIORS`.
    prior: ClassVar[str] = "factorised"

    scale_table: Literal["fine", "compressai"] = "fine"
    normalised: bool = False

    @property
    def distribution(self) -> Distribution:
        """Distribution of y's elements about their means."""
        return SCALE_TABLES[self.scale_table]

    @property
    def stride(self) -> int:
        """The sides of y must be multiples of this number."""
        return 1

    def hyper_outputs(self, channels: int) -> Mapping[str, int]:
        """Return the channels of each output of the hyper synthesis, by name.

        Each output has a transform of its own. ``channels`` is M here and below.
        """
        return {"shared": 2 * channels}

    def slice_widths(self, channels: int) -> tuple[int, ...]:
        """Return the channels of each slice by which analyses list the latent; they sum to M."""
        return (channels,)

    def is_chain(self, channels: int) -> bool:
        """Return whether slices see the one just before them; the module then has ``lagged()``."""
        return False

    def check(self, channels: int) -> None:
        """Refuse a latent that the model cannot code.

        Raises:
            ConfigError: the message begins with the option's name, and gives its value and the
                nearest that work.
        """

    @abstractmethod
    def build(self, channels: int) -> nn.Module:
        """Build the module, an `EntropyModel`."""

    def cost(self, channels: int, height: int, width: int) -> dict[str, Cost]:
        """Return the cost by part on a latent of ``height`` x ``width``.

        Raises:
            NoFormula: there is no closed formula.
        """
        raise NoFormula(f"the entropy model '{self.type}' has no closed formula for its cost")

    def part_of(self, path: str) -> str:
        """Return the part under which costs list the submodule or parameter at ``path``.

        ``path`` is its dotted name inside the module, empty for the module itself.
        """
        return self.module_name

    def prior_cost(self, channels: int) -> Cost:
        """Return the cost of the distribution of z, which has ``channels`` channels."""
        # A factorised prior's density network: widths 1, 3, 3, 3, 3, 1, and three quantiles.
        density = (3 + 27 + 3) + (4 * 3 + 1) + 4 * 3 + 3
        return Cost({}, {Kind.PRIOR: density * channels})

    def canonical(self, channels: int) -> dict[str, Any]:
        """Return the options that have an effect, as plain values: equal for equal models."""
        return self.model_dump(mode="json", context=FINGERPRINT)


class EntropyModelRegistry(LayerRegistry[EntropyModelConfig]):
    """Entropy models by registered name."""

    #: The type of a mapping without ``type``.
    default: ClassVar[str] = "slices"

    def parse(self, value: object) -> EntropyModelConfig:
        """Return the configuration that a name or a mapping describes.

        Raises:
            ConfigError: the name or an option is unknown, or an option's value is refused.
        """
        try:
            return self.validate(value)
        except ValidationError as error:
            raise ConfigError(validation_message(error, EntropyModelConfig, value)) from None

    def validate(self, value: object) -> EntropyModelConfig:
        """Do what `parse` does, inside a validation that puts the path before messages.

        Raises:
            ConfigError: the name or an option is unknown.
            ValidationError: an option's value is refused.
        """
        if not isinstance(value, Mapping) or not isinstance(value.get("type", ""), str):
            return super().parse(value)
        model = self[value.get("type", self.default)]
        try:
            return model.model_validate(dict(value))
        except ValidationError as error:
            if error.errors()[0]["type"] == "extra_forbidden":  # ours lists the known options
                raise ConfigError(validation_message(error, model, value)) from None
            raise


def start_scales(biases: Tensor) -> None:
    """Initialise scales to half a quantisation step.

    Near zero, likelihoods are at their floor: the estimate differs from the coder, and training
    starts without a gradient.
    """
    nn.init.constant_(biases, 0.5)


def start_output_at(transform: nn.Module, values: Tensor) -> None:
    """Make a transform that ends in a convolution output nearly these values (C,) everywhere.

    A transform whose last convolution does not match the number of values stays as it was built.
    """
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    last = next((m for m in reversed([*transform.modules()]) if isinstance(m, kinds)), None)
    if last is None or last.bias is None or last.bias.numel() % values.numel():
        return
    repeats = last.bias.numel() // values.numel()  # sub-pixel upsampling
    last.bias.copy_(values.repeat_interleave(repeats))
    last.weight.mul_(_NARROWED)


ENTROPY_MODELS = EntropyModelRegistry("entropy model", EntropyModelConfig)
register_entropy_model = ENTROPY_MODELS.register

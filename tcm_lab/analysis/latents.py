"""The latent between encoder and decoder: its deviation, bits, prediction and energy.

y is the latent, ŷ the decoder's input, and μ and σ are the mean and standard deviation that the
entropy model predicts, all in steps of the quantiser.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tcm_lab._utils import Frozen
from tcm_lab._utils.environment import Environment, environment
from tcm_lab._utils.hooks import hooked
from tcm_lab._utils.progress import OnDone
from tcm_lab.analysis._arrays import Array, ArrayRecord, as_array
from tcm_lab.analysis._probe import Images, image_names, iterate_images, pitch_px, run
from tcm_lab.analysis.prediction_error import ErrorStatistics
from tcm_lab.codec import Codec, CodecAdapter
from tcm_lab.codec.adapter import unwrapped
from tcm_lab.codec.distributions import Distribution
from tcm_lab.errors import LabError
from tcm_lab.stats import Interval, mean_interval


@dataclass(frozen=True)
class LatentTrace:
    """The latent of one image, batch first.

    Attributes:
        y: (1, M, h, w) before quantisation.
        coded: ŷ as coded, round(y − μ) + μ.
        y_hat: ŷ as the decoder receives it, refined by LRP if there is one.
        means: μ.
        scales: scales of the coder's distribution, bounded below by its smallest.
        y_bits: −log2 of the likelihood of each element of y.
        z_bits: −log2 of the likelihood of each element of z, (1, N, p, q).
        widths: channels of each slice.
        distribution: the distribution that the coder assumes.
    """

    y: Tensor
    coded: Tensor
    y_hat: Tensor
    means: Tensor
    scales: Tensor
    y_bits: Tensor
    z_bits: Tensor
    widths: tuple[int, ...]
    distribution: Distribution

    @property
    def error(self) -> Tensor:
        """The normalised prediction error (y − μ) / σ, (1, M, h, w)."""
        return (self.y - self.means) / (self.scales * self.distribution.deviation)


@torch.no_grad()
def trace_latent(codec: nn.Module, x: Tensor, *, rate: float | None = None) -> LatentTrace:
    """Run ``codec`` on an image (1, 3, H, W) in [0, 1] and record its latent at every step.

    Args:
        codec: a codec assembled by this package, or one of CompressAI's with a single Gaussian
            conditional with means.
        x: the image, of any size.
        rate: level of a rate-conditioned codec; None is the lowest.

    Raises:
        LabError: the codec does not predict means and scales of its whole latent at once.
    """
    codec = unwrapped(codec)
    conditional: Any = getattr(codec, "gaussian_conditional", None)
    if conditional is None:
        raise LabError(
            f"{CodecAdapter(codec).name} has no Gaussian conditional, so no means and scales"
        )
    inputs: list[tuple[Any, ...]] = []

    def keep_input(_: nn.Module, args: Any, kwargs: Any) -> None:
        inputs.append((*args, *(kwargs[k] for k in ("scales", "means") if k in kwargs)))

    received: list[Tensor] = []

    def keep_received(_: nn.Module, args: Any, y_hat: Tensor) -> None:
        received.append(args[1].in_steps(y_hat))

    hooks = [conditional.register_forward_pre_hook(keep_input, with_kwargs=True)]
    if isinstance(codec, Codec):
        hooks.append(codec.entropy_model.register_forward_hook(keep_received))
    with hooked(hooks):
        out = run(codec, x, rate)
    if len(inputs) != 1 or len(inputs[0]) != 3 or inputs[0][2] is None:
        raise LabError(
            f"{CodecAdapter(codec).name} predicts no means, or predicts slice by slice; this needs "
            "one Gaussian conditional with mean and scale, as in mbt2018-mean"
        )
    (y, scales, means), config = inputs[0], CodecAdapter(codec).config
    coded = (y - means).round() + means
    return LatentTrace(
        y=y,
        coded=coded,
        y_hat=received[0] if received else coded,
        means=means,
        scales=conditional.lower_bound_scale(scales),
        y_bits=-out["likelihoods"]["y"].log2(),
        z_bits=-out["likelihoods"]["z"].log2(),
        widths=tuple(getattr(codec, "slice_widths", (y.shape[1],))),
        distribution=Distribution() if config is None else config.entropy_model.distribution,
    )


class LatentErrors(Frozen):
    """Distances of ŷ from y, as means over channels and positions.

    Attributes:
        deviation: mean ``|y − ŷ|`` with ŷ as the decoder receives it.
        coded_deviation: the same before LRP; 1/4 for values uniform between two steps.
        squared_error: mean (y − ŷ)².
        coded_squared_error: the same before LRP; 1/12 for uniform values.
    """

    deviation: float
    coded_deviation: float
    squared_error: float
    coded_squared_error: float


class SliceLatent(LatentErrors):
    """One slice of one image, with its number of channels and its bits by the likelihoods."""

    channels: int
    bits: float


class ImageLatent(LatentErrors):
    """The latent of one image.

    Attributes:
        name: name of the image.
        pixels: pixels of the unpadded image.
        z_bits: bits of z by the likelihoods.
        magnitude: mean ``|y|``, by which the deviation is scaled.
        slices: slices in coding order.
    """

    name: str
    pixels: int
    z_bits: float
    magnitude: float
    slices: tuple[SliceLatent, ...]

    @property
    def y_bits(self) -> float:
        """Bits of all slices."""
        return sum(part.bits for part in self.slices)

    @property
    def bpp(self) -> float:
        """Estimated bits of y and z per pixel of the unpadded image."""
        return (self.y_bits + self.z_bits) / self.pixels

    @property
    def scaled_deviation(self) -> float:
        """Mean ``|y − ŷ|`` over mean ``|y|``, comparable across latents of different scales.

        It is NaN for a latent that is zero everywhere, which has no scale.
        """
        return self.deviation / self.magnitude if self.magnitude else math.nan


class LatentRecord(ArrayRecord):
    """The latents of a codec over images.

    Attributes:
        model: name of the model.
        images: the latent of each image.
        channel_bits: (M,) mean bits of each channel per pixel of the image.
        channel_energy: (M,) mean square of each channel about its own mean over all images.
        errors: statistics of the normalised prediction error (y − μ) / σ.
        shape: exponent of the distance in the density that the coder assumes; 2 for a Gaussian.
        environment: device, threads, versions.
    """

    model: str
    images: tuple[ImageLatent, ...]
    channel_bits: Array
    channel_energy: Array
    errors: ErrorStatistics
    shape: float = 2.0
    environment: Environment

    def interval(self, metric: str) -> Interval:
        """Return the mean of an `ImageLatent`'s metric with its interval over images."""
        return mean_interval([float(getattr(image, metric)) for image in self.images])

    @property
    def coding_gain_db(self) -> float:
        """Arithmetic over geometric mean of the channels' energies, in dB (Jayant & Noll 1984).

        Channels without energy count as a thousandth of a quantiser's error, 1/12.
        """
        energy = np.maximum(self.channel_energy.astype(np.float64), 1 / 12000)
        return float(10 * (np.log10(energy.mean()) - np.log10(energy).mean()))

    @property
    def energy_held(self) -> NDArray[np.float64]:
        """The share of the energy in the strongest 1, 2, 3 … channels, (M,)."""
        total = np.sort(self.channel_energy.astype(np.float64))[::-1].cumsum()
        share: NDArray[np.float64] = total / total[-1] if total[-1] else np.ones_like(total)
        return share

    def channels_holding(self, share: float) -> int:
        """Return the smallest number of channels that hold ``share`` of the energy."""
        return int((self.energy_held < share - 1e-12).sum()) + 1


def measure_latents(
    codec: nn.Module,
    images: Images,
    *,
    rate: float | None = None,
    on_image: OnDone | None = None,
) -> LatentRecord:
    """Measure the latents of every image.

    Args:
        codec: see `trace_latent`.
        images: images of any size, one by one.
        rate: level of a rate-conditioned codec; None is the lowest.
        on_image: callback receiving (images done, total images).

    Returns:
        The record. Its bits are those of the likelihoods, which an evaluation reports as estimated.

    Raises:
        LabError: there are no images, or as in `trace_latent`.
    """
    names = image_names(images)
    latents: list[ImageLatent] = []
    errors: list[ErrorStatistics] = []
    bits, moments = [], []
    for name, x in zip(names, iterate_images(images, codec, on_image), strict=True):
        trace = trace_latent(codec, x, rate=rate)
        pixels = x.shape[-2] * x.shape[-1]
        latents.append(_image(name, pixels, trace))
        errors.append(ErrorStatistics.of(trace.error))
        bits.append(trace.y_bits[0].double().sum((1, 2)) / pixels)
        y = trace.y[0].double().flatten(1)
        moments.append(torch.stack([torch.ones_like(y).sum(1), y.sum(1), y.square().sum(1)]))
    count, total, squares = torch.stack(moments).sum(0)
    energy = (squares / count - (total / count) ** 2).clamp_min(0)
    adapter = CodecAdapter(codec)
    return LatentRecord(
        model=adapter.name,
        images=tuple(latents),
        channel_bits=as_array(torch.stack(bits).mean(0)),
        channel_energy=as_array(energy),
        errors=reduce(add, errors),
        shape=trace.distribution.shape,
        environment=environment(adapter.device),
    )


class LatentMaps(ArrayRecord):
    """Maps of where bits are spent and deviation remains in one image.

    Attributes:
        model: name of the model.
        image: name of the image.
        pitch_px: image pixels per position.
        bits: (slices, h, w) bits of each position, per slice.
        deviation: (h, w) ``|y − ŷ|`` averaged over channels.
        scaled_deviation: (h, w) the deviation divided by the image's mean ``|y|``.
        coded_deviation: (h, w) ``|y − ŷ|`` before LRP.
        scales: (h, w) scales of the coder's distribution, averaged over channels.
        error: (h, w) normalised error (y − μ) / σ of ``channel``.
        channel: the channel that costs the most bits.
    """

    model: str
    image: str
    pitch_px: float
    bits: Array
    deviation: Array
    scaled_deviation: Array
    coded_deviation: Array
    scales: Array
    error: Array
    channel: int


def latent_maps(
    codec: nn.Module, image: Tensor, *, name: str = "", rate: float | None = None
) -> LatentMaps:
    """Return maps over one image (3, H, W), uint8 or in [0, 1].

    Errors are those of `trace_latent`.
    """
    (x,) = iterate_images([image], codec)
    trace = trace_latent(codec, x, rate=rate)
    deviation = (trace.y - trace.y_hat)[0].abs().mean(0)
    channel = int(trace.y_bits[0].sum((1, 2)).argmax())
    parts = trace.y_bits[0].split(list(trace.widths))
    return LatentMaps(
        model=CodecAdapter(codec).name,
        image=name,
        pitch_px=pitch_px(codec, x, trace.y.shape[-2]),
        bits=as_array(torch.stack([part.sum(0) for part in parts])),
        deviation=as_array(deviation),
        scaled_deviation=as_array(deviation / trace.y.abs().mean().clamp_min(1e-9)),
        coded_deviation=as_array((trace.y - trace.coded)[0].abs().mean(0)),
        scales=as_array(trace.scales[0].mean(0)),
        error=as_array(trace.error[0, channel]),
        channel=channel,
    )


def _image(name: str, pixels: int, trace: LatentTrace) -> ImageLatent:
    y, coded, y_hat = (latent.double() for latent in (trace.y, trace.coded, trace.y_hat))
    tensors = (trace.y_bits.double(), y - y_hat, y - coded)
    slices = zip(*(tensor.split(list(trace.widths), 1) for tensor in tensors), strict=True)
    return ImageLatent(
        name=name,
        pixels=pixels,
        z_bits=float(trace.z_bits.double().sum()),
        magnitude=float(trace.y.abs().mean()),
        slices=tuple(
            SliceLatent(channels=bits.shape[1], bits=float(bits.sum()), **_errors(refined, before))
            for bits, refined, before in slices
        ),
        **_errors(*tensors[1:]),
    )


def _errors(refined: Tensor, before: Tensor) -> dict[str, float]:
    return {
        "deviation": float(refined.abs().mean()),
        "coded_deviation": float(before.abs().mean()),
        "squared_error": float(refined.square().mean()),
        "coded_squared_error": float(before.square().mean()),
    }

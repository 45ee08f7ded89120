"""The codec: analysis, hyperprior, entropy model, synthesis; estimated, or coded to real bytes.

Shape suffixes: B batch, H W sides of the image, M latent channels, h w sides of the latent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tcm_lab.codec.coding import (
    CodingError,
    Estimator,
    ScaleTables,
    SymbolDecoder,
    SymbolEncoder,
    guard_stream,
    refuse_large_symbols,
    refuse_other_symbols,
    round_to_mean,
)
from tcm_lab.codec.config import VariantConfig, transform_plan
from tcm_lab.codec.cost import padded_size
from tcm_lab.codec.entropy_models import Coder
from tcm_lab.codec.gains import RateGains
from tcm_lab.codec.guarded import GuardedModel
from tcm_lab.codec.inputs import (
    InputError,
    check_images,
    check_sides,
    check_streams,
    levels_of,
    padded,
)
from tcm_lab.codec.outputs import CodecOutput, Coded, Latent, Likelihoods
from tcm_lab.codec.portable import Agreement, PortablePath, PortableTables, float64
from tcm_lab.codec.priors import PRIORS
from tcm_lab.codec.seeds import seeded
from tcm_lab.codec.transforms import HyperSynthesis, Transform

Rate = float | Tensor | None


class Codec(GuardedModel):
    """A learned image codec assembled from its configuration; a CompressAI ``CompressionModel``."""

    def __init__(self, config: VariantConfig) -> None:
        super().__init__()
        plan = transform_plan(config)
        m, n, entropy = config.latent_channels, config.hyper_channels, config.entropy_model
        self.config = config
        self.slice_widths = entropy.slice_widths(m)
        self.g_a = seeded(Transform, plan["g_a"])
        self.h_a = seeded(Transform, plan["h_a"])
        self.h_s = seeded(HyperSynthesis, plan)
        self.add_module(entropy.module_name, entropy.build(m))
        self.g_s = seeded(Transform, plan["g_s"])
        self.entropy_bottleneck = seeded(PRIORS[entropy.prior], n)
        self.gaussian_conditional = entropy.distribution.conditional()
        self.y_gains = RateGains(config.rate_levels, m) if config.rate_levels else None
        self.z_gains = RateGains(config.rate_levels, n) if config.rate_levels else None
        self.y_unit: Tensor | None
        self.register_buffer("y_unit", torch.ones(m) if entropy.normalised else None)
        self._tables: tuple[ScaleTables, Tensor] | None = None
        # Not to(), which refuses weights of three-dimensional convolutions.
        self._apply(lambda t: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t)

    @property
    def entropy_model(self) -> nn.Module:
        """The module that predicts and codes the latent; its name depends on its kind."""
        module: nn.Module = self.get_submodule(self.config.entropy_model.module_name)
        return module

    # -- forward ---------------------------------------------------------------------------------

    def forward(self, x: Tensor, rate: Rate = None) -> CodecOutput:
        """Return the decoded image, and the likelihoods whose logarithms are the bits.

        Args:
            x: images (B, 3, H, W) in [0, 1], of any size from 1x1.
            rate: level of a rate-conditioned codec in [0, R - 1], one for all or (B,); fractions
                interpolate between learned levels.

        Returns:
            ``x_hat`` (B, 3, H, W), not clamped, and ``likelihoods`` of ``y`` (B, M, h, w) and
            ``z``, over the padded image. In evaluation with fine scales, they match the coder.

        Raises:
            InputError: ``x`` is not a batch of such images; ``rate`` is missing or out of range, or
                given to a codec without levels.
        """
        return self.estimate(x, rate)[0]

    def estimate(self, x: Tensor, rate: Rate = None) -> tuple[CodecOutput, Latent]:
        """Return the result of ``forward``, and the latent with its entropy model's inputs."""
        levels = self._checked(x, rate)
        with self.reading():
            latent, y_hat, likelihoods = self._estimate(x, levels)
            x_hat = self._synthesise(y_hat, levels, (x.shape[-2], x.shape[-1]))
        return {"x_hat": x_hat, "likelihoods": likelihoods}, latent

    def likelihoods(self, x: Tensor, rate: Rate = None) -> Likelihoods:
        """Return the likelihoods that ``forward`` returns, without decoding to an image."""
        levels = self._checked(x, rate)
        with self.reading():
            return self._estimate(x, levels)[2]

    def _estimate(self, x: Tensor, levels: Tensor | None) -> tuple[Latent, Tensor, Likelihoods]:
        y = self._analyse(x, levels)
        steps = self._steps_per_unit(levels)
        z = self._hyper_latent(y, steps, levels)
        _, z_likelihoods = self.entropy_bottleneck(z)
        latent = Latent(y, self._hyper(self._quantise_z(z), levels), steps)
        y_hat, y_likelihoods = self.estimate_latent(self.entropy_model, latent)
        return latent, y_hat, {"y": y_likelihoods, "z": z_likelihoods}

    def estimate_latent(self, entropy_model: nn.Module, latent: Latent) -> tuple[Tensor, Tensor]:
        """Return ŷ in quantisation steps and y's likelihoods under an entropy model."""
        estimator = Estimator(latent.y)
        code = Coder(estimator, latent.steps)
        y_hat = code.in_steps(entropy_model(latent.features, code))
        distribution = self.config.entropy_model.distribution
        coded = distribution if distribution.nearest and not self.training else None
        return y_hat, estimator.likelihoods(self.gaussian_conditional, coded)

    def _checked(self, x: Tensor, rate: Rate) -> Tensor | None:
        """Check images and rate; return the level of each image, (B,), or None without levels."""
        weight = next(self.g_a.parameters())
        # A training step on a GPU does not wait to look at the images' values.
        check_images(x, weight, values=not (self.training and weight.is_cuda))
        return self._rate(rate, x)

    def _rate(self, rate: Rate, x: Tensor) -> Tensor | None:
        """Return the level of each image, (B,), or None for a codec without levels."""
        if self.y_gains is None:
            if rate is not None:
                raise InputError(f"{self.config.name} has no rate levels; leave rate out")
            return None
        top = self.config.rate_levels - 1
        if rate is None:
            raise InputError(f"{self.config.name} needs a rate between 0 and {top}")
        levels = levels_of(rate, x, top)
        if not x.is_meta and not bool(((levels >= 0) & (levels <= top)).all()):
            raise InputError(f"rate = {rate} is not between 0 and {top}")
        return levels

    def _analyse(self, x: Tensor, levels: Tensor | None) -> Tensor:
        """Return y, scaled for its rate; one image expanded to several rates is analysed once."""
        if levels is not None and x.stride(0) == 0:
            x = x[:1]
        x = padded(x, padded_size(self.config, (x.shape[-2], x.shape[-1])))
        y = self.g_a(x.contiguous(memory_format=self._layout))
        return self._scaled(y, self.y_gains, levels)

    @property
    def _layout(self) -> torch.memory_format:
        """The memory layout of the weights, to which data are converted.

        It is channels last, unless ``to(memory_format=...)`` has changed it.
        """
        for weight in self.g_a.parameters():
            if weight.dim() == 4 and min(weight.shape[1:]) > 1:  # others have both layouts
                return torch.contiguous_format if weight.is_contiguous() else torch.channels_last
        return torch.channels_last

    def _laid_out(self, z_hat: Tensor) -> Tensor:
        """Return ẑ in the weights' layout, with the same strides in encoder and decoder."""
        return torch.empty_like(z_hat, memory_format=self._layout).copy_(z_hat)

    def _scaled(self, values: Tensor, gains: RateGains | None, levels: Tensor | None) -> Tensor:
        return values if gains is None or levels is None else values * gains.gain(levels)

    def _unscaled(self, values: Tensor, gains: RateGains | None, levels: Tensor | None) -> Tensor:
        return values if gains is None or levels is None else values * gains.inverse(levels)

    def _steps_per_unit(self, levels: Tensor | None) -> Tensor | None:
        """Return the quantisation steps per unit of each channel, (B or 1, M, 1, 1)."""
        if self.y_unit is None:
            return None
        return self._scaled(self.y_unit[None, :, None, None], self.y_gains, levels)

    def _hyper_latent(self, y: Tensor, steps: Tensor | None, levels: Tensor | None) -> Tensor:
        """Return z, scaled for its rate."""
        return self._scaled(self.h_a(y if steps is None else y / steps), self.z_gains, levels)

    def _quantise_z(self, z: Tensor) -> Tensor:
        """Round z to whole steps from its medians, with the gradient of the identity."""
        return round_to_mean(z, self.entropy_bottleneck.medians())

    def _hyper(self, z_hat: Tensor, levels: Tensor | None) -> list[Tensor]:
        features: list[Tensor] = self.h_s(self._unscaled(z_hat, self.z_gains, levels))
        return features

    def _walk(self, features: Sequence[Tensor], code: Coder) -> Tensor:
        """Return ŷ in quantisation steps, coded by the entropy model."""
        return code.in_steps(self.entropy_model(features, code))

    def _synthesise(self, y_hat: Tensor, levels: Tensor | None, size: tuple[int, int]) -> Tensor:
        y_hat = self._unscaled(y_hat, self.y_gains, levels)
        if self.y_unit is not None:
            y_hat = y_hat / self.y_unit[:, None, None]
        x_hat: Tensor = self.g_s(y_hat)
        return x_hat[..., : size[0], : size[1]]

    # -- bytes -----------------------------------------------------------------------------------

    @torch.no_grad()
    def compress(self, x: Tensor, rate: Rate = None, *, portable: bool = False) -> Coded:
        """Code images (B, 3, H, W) in [0, 1] to bytes; ``decompress(**coded)`` undoes it.

        Args:
            x: the images.
            rate: level of a rate-conditioned codec, one for all images.
            portable: whether another device, thread count, kernel or library version can decode the
                bytes, too; all that entropy coding depends on is then computed in float64.

        Raises:
            InputError: ``x`` is not a batch of such images, or the codec lacks this ``rate``.
            CodingError: y or z is not finite, or too large for the entropy coder; or a layer does
                not compute in float64, as a portable stream requires.
        """
        levels = self._checked(x, rate)
        if levels is not None and torch.as_tensor(rate).numel() > 1:
            raise InputError("bytes are written at one rate; give a single value")
        with self.reading():
            y = self._analyse(x, levels)
            z = self._hyper_latent(y, self._steps_per_unit(levels), levels)
            largest = (z - self.entropy_bottleneck.medians()).abs().max()
        if not (torch.isfinite(y).all() and torch.isfinite(z).all()):
            raise CodingError("the latent is not finite: the image or the weights hold NaN or inf")
        refuse_large_symbols("z", largest)
        strings, checksum = (self._encode_portably if portable else self._encode)(y, z, levels)
        coded: Coded = {
            "strings": strings,
            "shape": (z.shape[-2], z.shape[-1]),
            "size": (x.shape[-2], x.shape[-1]),
            "checksum": checksum,
        }
        if rate is not None:
            coded["rate"] = torch.as_tensor(rate, dtype=torch.float64, device="cpu").item()
        return coded

    def _encode(self, y: Tensor, z: Tensor, levels: Tensor | None) -> tuple[list[list[bytes]], int]:
        with self.reading():
            encoder = SymbolEncoder(y, self._current_tables())
            z_strings: list[bytes] = self.entropy_bottleneck.compress(z.contiguous())
            features = self._hyper(self._laid_out(self._quantise_z(z)), levels)
            self._walk(features, Coder(encoder, self._steps_per_unit(levels)))
        return [encoder.strings(), z_strings], encoder.checksum()

    def _encode_portably(
        self, y: Tensor, z: Tensor, levels: Tensor | None
    ) -> tuple[list[list[bytes]], int]:
        with self._portable_path(len(y)) as path:
            symbols = path.prior.symbols(z)
            encoder = SymbolEncoder(y, path.tables)
            features = self._hyper(self._laid_out(path.prior.values(symbols)), levels)
            self._walk(features, path.coder(encoder, self._steps_per_unit(levels)))
            streams = [encoder.strings(), path.prior.encode(symbols), path.agree.lists()]
            return streams, path.agree.checksum(encoder.checksum())

    @torch.no_grad()
    def decompress(
        self,
        strings: Sequence[Sequence[bytes]],
        shape: Sequence[int],
        size: Sequence[int] | None = None,
        rate: float | None = None,
        checksum: int | None = None,
    ) -> dict[str, Tensor]:
        """Decode the output of ``compress``, portable or not.

        Args:
            strings: y's streams and z's streams, one of each per image, and for a portable stream
                the encoder's decisions.
            shape: (h, w) of z.
            size: (H, W) of the image; without it the padded image is returned.
            rate: the rate at which the image was coded.
            checksum: the encoder's checksum of its symbols; compared if given.

        Returns:
            ``x_hat`` (B, 3, H, W), clamped to [0, 1]. ŷ of a portable stream is the same on every
            machine, bit for bit; g_s computes the image from it in this device's own arithmetic.

        Raises:
            InputError: ``strings`` are not lists of streams, or the sizes do not fit together.
            CodingError: the bytes are not a stream, or the decoder's results differ from the
                encoder's (other weights, or other arithmetic on another device).
        """
        images = check_streams(strings)
        shape, size = check_sides(self.config, shape, size)
        levels = self._rate(rate, self.entropy_bottleneck.medians().expand(images, -1, -1, -1))
        portable = len(strings) > 2
        decode = self._decode_portably if portable else self._decode
        y_hat, decoded_checksum = decode(strings, shape, levels)
        if checksum is not None and decoded_checksum != checksum:
            refuse_other_symbols(self.config.name, portable=portable)
        with self.reading():
            x_hat = self._synthesise(y_hat, levels, size)
        return {"x_hat": x_hat.clamp(0, 1)}

    def _decode(
        self, strings: Sequence[Sequence[bytes]], shape: Sequence[int], levels: Tensor | None
    ) -> tuple[Tensor, int]:
        with self.reading():
            tables = self._current_tables()
            y_strings, z_strings = strings
            symbols = self.config.hyper_channels * math.prod(shape)
            guarded = [guard_stream(string, symbols) for string in z_strings]
            z_hat = self.entropy_bottleneck.decompress(guarded, tuple(shape))
            features = self._hyper(self._laid_out(z_hat), levels)
            decoder = SymbolDecoder(y_strings, self._symbols(features), tables)
            y_hat = self._walk(features, Coder(decoder, self._steps_per_unit(levels)))
        return y_hat, decoder.checksum()

    def _decode_portably(
        self, strings: Sequence[Sequence[bytes]], shape: Sequence[int], levels: Tensor | None
    ) -> tuple[Tensor, int]:
        y_strings, z_strings, decisions = strings
        with self._portable_path(len(y_strings), decisions) as path:
            z_hat = path.prior.values(path.prior.decode(z_strings, shape))
            features = self._hyper(self._laid_out(z_hat), levels)
            decoder = SymbolDecoder(y_strings, self._symbols(features), path.tables)
            y_hat = self._walk(features, path.coder(decoder, self._steps_per_unit(levels)))
            checksum = path.agree.checksum(decoder.checksum())
        with self.reading():
            return y_hat.to(self.entropy_bottleneck.medians().dtype), checksum

    def _symbols(self, features: Sequence[Tensor]) -> int:
        return self.config.latent_channels * math.prod(features[0].shape[-2:])

    @contextmanager
    def _portable_path(
        self, images: int, decisions: Sequence[bytes] | None = None
    ) -> Iterator[PortablePath]:
        """Compute all that coding depends on in float64 inside the ``with`` block."""
        parts = [self.h_s, self.entropy_model, self.entropy_bottleneck, self.y_gains, self.z_gains]
        used = nn.ModuleList(part for part in parts if part is not None)
        agree = Agreement(images, decisions)
        with self._lock.alone(), float64((*used.parameters(), *used.buffers())):
            tables = PortableTables(self.config.entropy_model.distribution, agree)
            yield PortablePath(agree, self.entropy_bottleneck.portable(agree), tables)

    def update(self, *args: Any, **kwargs: Any) -> bool:
        """Rebuild the coding tables from the weights, as CompressAI's models do."""
        self._tables = None
        return self._make_tables(*args, **kwargs)

    def _make_tables(self, *args: Any, **kwargs: Any) -> bool:
        """Make the tables as buffers that can be loaded into, even in inference mode."""
        with self.reading(), torch.inference_mode(False), torch.no_grad():
            updated: bool = super().update(*args, **kwargs)
        return updated

    def _current_tables(self) -> ScaleTables:
        """Return the coding tables for the current weights."""
        prior = [value.detach().flatten() for value in self.entropy_bottleneck.parameters()]
        weights = torch.cat(prior).cpu().double()
        if self._tables is None or not torch.equal(self._tables[1], weights):
            distribution = self.config.entropy_model.distribution
            self._make_tables(scale_table=distribution.scale_table(), force=True)
            tables = ScaleTables(self.gaussian_conditional, nearest=distribution.nearest)
            self._tables = (tables, weights)
        return self._tables[0]

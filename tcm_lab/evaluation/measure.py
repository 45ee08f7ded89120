"""Whole images, coded to real bytes and decoded by a codec or by JPEG and WebP, and measured."""

from __future__ import annotations

import io
import logging
import math
import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor, nn

from tcm_lab._utils.devices import Precision, arithmetic
from tcm_lab._utils.environment import environment
from tcm_lab._utils.progress import OnDone
from tcm_lab.codec import FRAME_BYTES, CodecAdapter, bits
from tcm_lab.codec.adapter import decompress, evaluating
from tcm_lab.data import ImageSet
from tcm_lab.errors import LabError, lookup
from tcm_lab.evaluation.payload import jpeg_payload_bytes, webp_payload_bytes
from tcm_lab.evaluation.quality import check_requested, measure_quality
from tcm_lab.evaluation.record import ImageResult, RdPoint, RdRecord
from tcm_lab.training import Recipe

logger = logging.getLogger(__name__)

GAP_PERCENT = 1.0

Anchor = Literal["jpeg", "webp"]

_OPTIONS: dict[str, dict[str, Any]] = {
    "jpeg": {"format": "JPEG", "optimize": True, "subsampling": "4:2:0"},
    "webp": {"format": "WEBP", "method": 4},
}
_PAYLOAD_BYTES: dict[str, Callable[[bytes], int]] = {
    "jpeg": jpeg_payload_bytes,
    "webp": webp_payload_bytes,
}
_BUILT_WITH: dict[str, str] = {"jpeg": "jpg", "webp": "webp"}
QUALITIES = tuple(range(5, 100, 5))


def evaluate(
    codec: nn.Module,
    images: ImageSet,
    *,
    name: str = "",
    rates: Sequence[float] | None = None,
    recipe: Recipe | None = None,
    metrics: Sequence[str] = (),
    precision: Precision = "float32",
    on_progress: OnDone | None = None,
) -> RdRecord:
    """Code and decode every image at every rate.

    Args:
        codec: a codec assembled here, CompressAI's, or any module with its interface; images are
            padded for a codec that doesn't pad them itself. Missing entropy tables are made.
        images: whole images, coded one by one.
        name: name of the codec in the record; by default its own name.
        rates: positions between the levels of a rate-conditioned codec, 0 the lowest rate; ``None``
            for the levels themselves.
        recipe: recipe that the codec was trained with, if known. Its lambdas determine which
            records are points of one curve, and its seed which are repetitions.
        metrics: further metrics to measure: ``lpips``, ``dists``.
        precision: arithmetic of the networks: ``float32`` (on a GPU without TF32), ``tf32``, or
            ``bfloat16`` and ``float16`` by autocast. Unless float32, it is added to the name.
        on_progress: called with (images done, total images), counting an image once per rate.

    Returns:
        A record with one point per rate, by ascending rate. A gap over 1 % between written and
        estimated bits is logged as a warning.

    Raises:
        LabError: the set is empty, rates are given for a codec that has one rate or lie outside
            its levels, the device does not support the precision, an image is decoded to NaN, or a
            requested metric's package or weights are missing.
    """
    adapter = CodecAdapter(codec)
    chosen = positions(adapter, rates)
    title = name or adapter.name
    if precision != "float32":
        title = f"{title} ({precision})"
    with evaluating(codec), torch.no_grad(), arithmetic(precision, adapter.device):
        adapter.make_tables()
        code = partial(_code, adapter)
        points = measure_points(images, chosen, code, on_progress, metrics, recipe)
    for point in points:
        gap = point.gap_percent
        if gap is not None and abs(gap) > GAP_PERCENT:
            where = "" if point.rate is None else f" at rate {point.rate:g}"
            logger.warning("%s: written bits are %+.1f %% off the estimate%s", title, gap, where)
    return RdRecord(
        name=title,
        model=adapter.description,
        shapes=adapter.fingerprint if adapter.config is None else None,
        points=points,
        recipe=recipe,
        data_fingerprint=images.fingerprint,
        skipped=images.skipped,
        precision=precision,
        environment=environment(adapter.device),
    )


def evaluate_anchor(
    codec: Anchor,
    images: ImageSet,
    qualities: Sequence[int] = QUALITIES,
    *,
    metrics: Sequence[str] = (),
    on_progress: OnDone | None = None,
) -> RdRecord:
    """Code and decode every image at every quality; count both whole files and payloads.

    Args:
        codec: ``jpeg`` (4:2:0, optimised Huffman tables) or ``webp``.
        images: whole images.
        qualities: Pillow's quality, whole numbers from 0 to 100.
        metrics: as in ``evaluate``.
        on_progress: called with (images done, total images), counting an image once per quality.

    Raises:
        LabError: the codec is unknown, or Pillow was built without it; there are no images; a
            quality is no whole number or out of range; the format can't hold an image; or a
            requested metric's package or weights are missing.
    """
    options = lookup(_OPTIONS, codec, "anchor")
    if not features.check(_BUILT_WITH[codec]):
        raise LabError(
            f"{codec}: this Pillow was built without it. Install a wheel of Pillow from PyPI, or "
            "compare without it."
        )
    code = partial(_by_pillow, codec)
    points = measure_points(images, _whole_numbers(qualities), code, on_progress, metrics)
    return RdRecord(
        name=codec,
        model=f"Pillow {options}",
        points=points,
        data_fingerprint=images.fingerprint,
        skipped=images.skipped,
        environment=environment(),
    )


def _whole_numbers(qualities: Sequence[int]) -> list[int]:
    """Return the distinct qualities in ascending order.

    Raises:
        LabError: there are none, or one is no whole number from 0 to 100.
    """
    try:
        numbers = sorted({operator.index(quality) for quality in qualities})
    except TypeError:
        numbers = []
    if not numbers or numbers[0] < 0 or numbers[-1] > 100:
        raise LabError(f"qualities {qualities}: give whole numbers from 0 to 100.")
    return numbers


@dataclass(frozen=True)
class Coded:
    """One image, coded and decoded, in [0, 255], with its bits and times."""

    x_hat: Tensor
    bits: int
    payload_bits: int
    estimated_bits: float | None
    encode_ms: float
    decode_ms: float


def measure_points(
    images: ImageSet,
    rates: Sequence[float | None],
    code: Callable[[str, Tensor, float | None], Coded],
    on_progress: OnDone | None,
    metrics: Sequence[str] = (),
    recipe: Recipe | None = None,
) -> tuple[RdPoint, ...]:
    """Code every image at every rate by ``code(name, pixels, rate)``, with pixels (3, H, W).

    The lambda of each rate is taken from the recipe.
    """
    if not len(images):
        raise LabError("images: the set is empty. Name a folder of images.")
    check_requested(metrics)
    results: dict[float | None, list[ImageResult]] = {rate: [] for rate in rates}
    done = 0
    for name, pixels in zip(images.names, images, strict=True):
        for rate, at_rate in results.items():
            coded = code(name, pixels, rate)
            refuse_no_numbers(name, coded.x_hat)
            x = pixels.to(coded.x_hat.device).float().unsqueeze(0)
            at_rate.append(
                ImageResult(
                    name=name,
                    height=x.shape[2],
                    width=x.shape[3],
                    bits=coded.bits,
                    payload_bits=coded.payload_bits,
                    estimated_bits=coded.estimated_bits,
                    **measure_quality(x, coded.x_hat, metrics),
                    encode_ms=coded.encode_ms,
                    decode_ms=coded.decode_ms,
                )
            )
            done += 1
            if on_progress is not None:
                on_progress(done, len(images) * len(results))
    return tuple(
        RdPoint(rate=rate, lmbda=lambda_of(recipe, rate), images=tuple(at_rate))
        for rate, at_rate in results.items()
    )


def code_image(codec: nn.Module, image: Tensor, rate: float | None = None) -> Coded:
    """Code one image to real bytes, and decode it.

    Args:
        codec: as in ``evaluate``.
        image: (3, H, W) of bytes.
        rate: position between the levels of a rate-conditioned codec.

    Raises:
        LabError: the codec has no such rate, or cannot code.
    """
    adapter = CodecAdapter(codec)
    adapter.check_rate(rate)
    with evaluating(codec), torch.no_grad():
        adapter.make_tables()
        return _code(adapter, "", image, rate)


def _code(adapter: CodecAdapter, _: str, pixels: Tensor, rate: float | None) -> Coded:
    height, width = pixels.shape[-2:]
    codec: Any = adapter.module  # with CompressAI's methods
    x = adapter.pad(pixels.to(adapter.device).float().div(255).unsqueeze(0))
    started = _now(x)
    encoded = codec.compress(x, **({} if rate is None else {"rate": rate}))
    between = _now(x)
    decoded = decompress(codec, encoded)["x_hat"]
    ended = _now(x)
    payload_bits = _written_bits(encoded["strings"])
    likelihoods = adapter.likelihoods(x, rate)
    return Coded(
        x_hat=to_bytes(decoded[..., :height, :width]),
        bits=payload_bits + 8 * FRAME_BYTES,
        payload_bits=payload_bits,
        estimated_bits=bits(likelihoods, torch.float64).item() if likelihoods else None,
        encode_ms=1000 * (between - started),
        decode_ms=1000 * (ended - between),
    )


def _by_pillow(codec: Anchor, name: str, pixels: Tensor, quality: float | None) -> Coded:
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    file = io.BytesIO()
    started = time.perf_counter()
    try:
        Image.fromarray(array).save(file, quality=quality, **_OPTIONS[codec])
    except (OSError, ValueError) as error:
        raise LabError(f"{name}: {codec} cannot hold this image ({error}).") from error
    between = time.perf_counter()
    with Image.open(file) as decoded:
        back = np.array(decoded.convert("RGB"))
    ended = time.perf_counter()
    return Coded(
        x_hat=torch.from_numpy(back).permute(2, 0, 1).float().unsqueeze(0),
        bits=8 * len(file.getvalue()),
        payload_bits=8 * _PAYLOAD_BYTES[codec](file.getvalue()),
        estimated_bits=None,
        encode_ms=1000 * (between - started),
        decode_ms=1000 * (ended - between),
    )


def _written_bits(strings: Any) -> int:
    """Count the bits of nested lists of byte strings."""
    if isinstance(strings, bytes | bytearray | memoryview):
        return 8 * memoryview(strings).nbytes
    return sum(_written_bits(part) for part in strings)


def positions(
    adapter: CodecAdapter, rates: Sequence[float] | None = None
) -> Sequence[float | None]:
    """Return the given rates of a codec, or all its levels, in ascending order.

    Raises:
        LabError: rates are given for a codec that has one rate, or lie outside its levels.
    """
    levels = adapter.rate_levels
    if not levels and rates is None:
        return [None]
    if not levels:
        raise LabError(
            f"rates {rates}: this codec has one rate. Leave rates out, or train it with "
            "rate_levels."
        )
    chosen = [float(rate) for rate in (range(levels) if rates is None else rates)]
    outside = [rate for rate in chosen if not 0 <= rate <= levels - 1 or math.isnan(rate)]
    if outside or not chosen:
        raise LabError(f"rates {outside or chosen}: give positions from 0 to {levels - 1}.")
    return list(dict.fromkeys(sorted(chosen)))


def lambda_of(recipe: Recipe | None, rate: float | None) -> float | None:
    """Return the lambda that a rate was trained for; None for positions between the levels."""
    lambdas = () if recipe is None else recipe.lambdas
    if rate is None:
        return lambdas[0] if len(lambdas) == 1 else None
    return next((lmbda for level, lmbda in enumerate(lambdas) if level == rate), None)


def _now(x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter()


def refuse_no_numbers(name: str, x_hat: Tensor) -> None:
    """Refuse an image that a codec decoded to NaN, since its metrics would be NaN, too.

    Raises:
        LabError: a value is NaN; the message names the image.
    """
    if x_hat.isnan().any():
        raise LabError(
            f"{name}: is decoded to values that are not numbers (NaN). Measure it in float32, or "
            "look for damaged weights."
        )


def to_bytes(image: Tensor) -> Tensor:
    """Round an image in [0, 1] to the 256 levels of an image file, as float32 in [0, 255]."""
    return (image.float() * 255).clamp(0, 255).round()

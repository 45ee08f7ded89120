"""Codes whole images to real bytes and measures what comes back."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tcm_lab._utils.environment import environment
from tcm_lab._utils.progress import OnDone
from tcm_lab.data import ImageSet
from tcm_lab.errors import LabError
from tcm_lab.evaluation.quality import ms_ssim, psnr_db, to_bytes
from tcm_lab.evaluation.record import ImageResult, RdPoint, RdRecord

logger = logging.getLogger(__name__)

GAP_PERCENT = 1.0
_PEER_STRIDE = 64


def evaluate(
    codec: nn.Module,
    images: ImageSet,
    *,
    name: str = "",
    rates: Sequence[float] | None = None,
    on_progress: OnDone | None = None,
) -> RdRecord:
    """Code and decode every image at every rate.

    Args:
        codec: one of ours, which takes any size, or a CompressAI model, which is padded to
            multiples of 64 here and nowhere else. Its entropy tables are made if it has none.
        images: whole images, coded one by one.
        name: what the record calls the codec.
        rates: positions between the levels of a rate-conditioned codec, 0 the cheapest; ``None``
            for its levels themselves.
        on_progress: told (images done, images to do), counting an image once per rate.

    Returns:
        One point per rate, by ascending rate. A gap over 1 % between written and estimated bits
        is logged as a warning.

    Raises:
        LabError: there is no image, or rates are given for a codec that has one rate or lie
            outside its levels.
    """
    if not len(images):
        raise LabError("images: there is none to evaluate on. Name a folder of images.")
    positions = _positions(codec, rates)
    config: Any = getattr(codec, "config", None)
    title = name or type(codec).__name__
    device = next(codec.parameters()).device
    was_training = codec.training
    codec.eval()
    if not _has_tables(codec):
        codec.update(force=True)  # type: ignore[operator]  # CompressAI's method
    results: dict[float | None, list[ImageResult]] = {rate: [] for rate in positions}
    done = 0
    with torch.no_grad():
        for index, label in enumerate(images.names):
            x = images[index].to(device).float().div(255).unsqueeze(0)
            for rate in positions:
                results[rate].append(_code(codec, x, rate, label))
                done += 1
                if on_progress is not None:
                    on_progress(done, len(images) * len(positions))
    codec.train(was_training)
    points = [RdPoint(rate=rate, images=tuple(found)) for rate, found in results.items()]
    for point in points:
        gap = point.gap_percent
        if gap is not None and abs(gap) > GAP_PERCENT:
            where = "" if point.rate is None else f" at rate {point.rate:g}"
            logger.warning("%s: written bits are %+.1f %% off the estimate%s", title, gap, where)
    return RdRecord(
        name=title,
        model=title if config is None else config.model_dump(mode="json"),
        points=tuple(points),
        data_fingerprint=images.fingerprint,
        skipped=images.skipped,
        environment=environment(device),
    )


def written_bits(strings: Any) -> int:
    """Count the bits of nested lists of byte strings."""
    if isinstance(strings, bytes):
        return 8 * len(strings)
    return sum(written_bits(part) for part in strings)


def _code(codec: Any, x: Tensor, rate: float | None, name: str) -> ImageResult:
    height, width = x.shape[-2:]
    options = {} if rate is None else {"rate": rate}
    padded = x if hasattr(codec, "config") else _pad(x)
    started = _now(x)
    encoded = codec.compress(padded, **options)
    between = _now(x)
    decoded = codec.decompress(**encoded)["x_hat"]
    ended = _now(x)
    likelihoods = codec(padded, **options)["likelihoods"]
    estimated = sum(float(part.double().log2().sum()) for part in likelihoods.values())
    ours, theirs = to_bytes(x), to_bytes(decoded[..., :height, :width])
    return ImageResult(
        name=name,
        height=height,
        width=width,
        bits=written_bits(encoded["strings"]),
        estimated_bits=-estimated,
        psnr_db=psnr_db(ours, theirs),
        ms_ssim=ms_ssim(ours, theirs),
        encode_ms=1000 * (between - started),
        decode_ms=1000 * (ended - between),
    )


def _pad(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    bottom, right = -height % _PEER_STRIDE, -width % _PEER_STRIDE
    return nn.functional.pad(x, (0, right, 0, bottom), mode="replicate")


def _positions(codec: nn.Module, rates: Sequence[float] | None) -> list[float | None]:
    levels = int(getattr(getattr(codec, "config", None), "rate_levels", 0))
    if not levels:
        if rates is not None:
            raise LabError(
                f"rates {tuple(rates)}: this codec has one rate. Leave rates out, or train it "
                "with rate_levels."
            )
        return [None]
    chosen = [float(rate) for rate in (range(levels) if rates is None else rates)]
    outside = [rate for rate in chosen if not 0 <= rate <= levels - 1 or math.isnan(rate)]
    if outside or not chosen:
        raise LabError(f"rates {outside or chosen}: give positions from 0 to {levels - 1}.")
    return list(dict.fromkeys(sorted(chosen)))


def _has_tables(codec: nn.Module) -> bool:
    tables = [b for n, b in codec.named_buffers() if n.endswith("_quantized_cdf")]
    return all(table.numel() for table in tables)


def _now(x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter()

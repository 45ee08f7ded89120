"""JPEG and WebP on the same images, as Pillow writes them."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from tcm_lab._utils.environment import environment
from tcm_lab._utils.progress import OnDone
from tcm_lab.data import ImageSet
from tcm_lab.errors import LabError, one_of
from tcm_lab.evaluation.measure import ms_ssim, psnr_db
from tcm_lab.evaluation.record import ImageResult, RdPoint, RdRecord

Anchor = Literal["jpeg", "webp"]

_OPTIONS: dict[str, dict[str, Any]] = {
    "jpeg": {"format": "JPEG", "optimize": True, "subsampling": "4:2:0"},
    "webp": {"format": "WEBP", "method": 4},
}
QUALITIES = tuple(range(5, 100, 5))


def evaluate_anchor(
    codec: Anchor,
    images: ImageSet,
    qualities: Sequence[int] = QUALITIES,
    *,
    on_progress: OnDone | None = None,
) -> RdRecord:
    """Code and decode every image at every quality; the whole file counts, headers included.

    Args:
        codec: ``jpeg`` (4:2:0, optimised Huffman tables) or ``webp``.
        images: whole images.
        qualities: Pillow's quality, 0 to 100.
        on_progress: called with (images done, images in all), counting an image once per quality.

    Raises:
        LabError: unknown codec, quality out of range, or the format can't hold an image.
    """
    if codec not in _OPTIONS:
        raise LabError(f"anchor {codec!r}: unknown. Use {one_of(_OPTIONS)}.")
    wrong = [quality for quality in qualities if not 0 <= quality <= 100]
    if wrong or not qualities:
        raise LabError(f"qualities {wrong or '()'}: give numbers from 0 to 100.")
    results: dict[int, list[ImageResult]] = {quality: [] for quality in sorted(qualities)}
    done = 0
    for index, name in enumerate(images.names):
        pixels = images.decode(index)
        for quality, found in results.items():
            found.append(_code(codec, pixels, quality, name))
            done += 1
            if on_progress is not None:
                on_progress(done, len(images) * len(results))
    points = [RdPoint(rate=quality, images=tuple(found)) for quality, found in results.items()]
    return RdRecord(
        name=codec,
        model=f"Pillow {_OPTIONS[codec]}",
        points=tuple(points),
        data_fingerprint=images.fingerprint,
        skipped=images.skipped,
        environment=environment(),
    )


def _code(codec: Anchor, pixels: Any, quality: int, name: str) -> ImageResult:
    file = io.BytesIO()
    started = time.perf_counter()
    try:
        Image.fromarray(pixels).save(file, quality=quality, **_OPTIONS[codec])
    except OSError as error:
        raise LabError(f"{name}: {codec} cannot hold this image ({error}).") from error
    between = time.perf_counter()
    with Image.open(file) as decoded:
        back = np.asarray(decoded.convert("RGB"))
    ended = time.perf_counter()
    ours, theirs = (
        torch.from_numpy(array.transpose(2, 0, 1).copy()).float().unsqueeze(0)
        for array in (pixels, back)
    )
    return ImageResult(
        name=name,
        height=pixels.shape[0],
        width=pixels.shape[1],
        bits=8 * len(file.getvalue()),
        estimated_bits=None,
        psnr_db=psnr_db(ours, theirs),
        ms_ssim=ms_ssim(ours, theirs),
        encode_ms=1000 * (between - started),
        decode_ms=1000 * (ended - between),
    )

"""JPEG and WebP on the same images, as Pillow writes them."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tcm_lab._utils.environment import environment
from tcm_lab._utils.progress import OnDone
from tcm_lab.data import ImageSet
from tcm_lab.errors import LabError, one_of
from tcm_lab.evaluation.measure import Coded, measure_points
from tcm_lab.evaluation.record import RdRecord

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
    points = measure_points(images, sorted(set(qualities)), partial(_code, codec), on_progress)
    return RdRecord(
        name=codec,
        model=f"Pillow {_OPTIONS[codec]}",
        points=points,
        data_fingerprint=images.fingerprint,
        skipped=images.skipped,
        environment=environment(),
    )


def _code(codec: Anchor, name: str, pixels: Tensor, quality: float | None) -> Coded:
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    file = io.BytesIO()
    started = time.perf_counter()
    try:
        Image.fromarray(array).save(file, quality=quality, **_OPTIONS[codec])
    except OSError as error:
        raise LabError(f"{name}: {codec} cannot hold this image ({error}).") from error
    between = time.perf_counter()
    with Image.open(file) as decoded:
        back = np.array(decoded.convert("RGB"))
    ended = time.perf_counter()
    return Coded(
        x_hat=torch.from_numpy(back).permute(2, 0, 1).float().unsqueeze(0),
        bits=8 * len(file.getvalue()),
        estimated_bits=None,
        encode_ms=1000 * (between - started),
        decode_ms=1000 * (ended - between),
    )

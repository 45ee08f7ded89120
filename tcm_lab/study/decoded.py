"""Evaluation images decoded by the front's codecs: stored once, and shown next to the originals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tcm_lab._utils.files import write_atomically
from tcm_lab._utils.progress import OnDone
from tcm_lab.codec import load_checkpoint
from tcm_lab.data import ImageSet
from tcm_lab.evaluation import RdPoint, code_image
from tcm_lab.reporting import Comparison, ShownImage, image_bytes
from tcm_lab.study.finalists import finalists_of, trained_of
from tcm_lab.study.folder import TRIALS, file_names
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.result import StudyResult
from tcm_lab.study.summary import VariantSummary, summarise

FOLDER = "decoded"
_ORIGINAL = "original"
_IMAGES = 2
_VARIANTS = 6
_HEIGHT, _WIDTH = 384, 512  # of the centre crop that is shown
_CAPTION = "At the middle rate, seed 0; bits and PSNR are those of the whole image."
_MOST_BYTES = 3_000_000  # of all images on a page, before base64 adds a third


def decode_front(result: StudyResult, images: ImageSet, on_progress: OnDone | None = None) -> None:
    """Decode some images with the baseline and the front's variants, and write crops as PNG.

    Existing files are kept. Variants whose weights are not in the study's folder are skipped.

    Args:
        result: the study.
        images: evaluation images of the study.
        on_progress: called with (images done, images in total).

    Raises:
        LabError: weights can't be read, or the folder can't be written.
    """
    summaries = summarise(result.records, result.space)
    trained = trained_of(finalists_of(result, summaries), summaries)
    todo = [
        (record, weights, index)
        for record in (summary.first for summary in _shown(trained))
        if (weights := _weights(result.out, record)) is not None
        for index in range(len(images[:_IMAGES]))
    ]
    folders, load = _folders(result.out, images.names), lru_cache(maxsize=1)(load_checkpoint)
    for done, (record, weights, index) in enumerate(todo):
        folder, pixels = folders[images.names[index]], images[index]
        original, decoded = (_file(folder, name) for name in (_ORIGINAL, record.identity))
        if not original.exists():
            _write_crop(original, pixels)
        if not decoded.exists():
            coded = code_image(load(weights), pixels, _point(record).rate)
            _write_crop(decoded, coded.x_hat[0].byte().cpu())
        if on_progress is not None:
            on_progress(done + 1, len(todo))


def comparisons(result: StudyResult, summaries: Sequence[VariantSummary]) -> list[Comparison]:
    """Return a comparison for each image that ``decode_front`` has written with its original.

    A page is kept below 6 MB by leaving out variants, which the captions name.
    """
    shown = _shown(summaries)
    compared, bytes_left = list[Comparison](), _MOST_BYTES
    names = [image.name for image in _point(shown[0].first).images] if shown else []
    for name, folder in _folders(result.out, names).items():
        images, omitted = list[ShownImage](), list[str]()
        for label, path, note in _files(folder, name, shown):
            data = image_bytes(_read(path)) if path.exists() else b""
            if data and len(data) <= bytes_left:
                bytes_left -= len(data)
                images.append(ShownImage(data, label, note))
            else:
                omitted.append(label)
        if len(images) > 1 and images[0].name == _ORIGINAL:
            without = f" Without {', '.join(omitted)}." if omitted else ""
            compared.append(Comparison(tuple(images), name, f"{_CAPTION}{without}"))
    return compared


def _shown(summaries: Sequence[VariantSummary]) -> list[VariantSummary]:
    """Return the baseline and the front's variants, up to the number that a page can show."""
    evaluated = [s for s in summaries if s.is_complete and s.evaluations]
    return [s for s in evaluated if s.is_baseline or s.on_front][:_VARIANTS]


def _files(
    folder: Path, image: str, shown: Sequence[VariantSummary]
) -> Iterator[tuple[str, Path, str]]:
    """Yield (label, file, note) of an image's original and of its decoded versions."""
    yield _ORIGINAL, _file(folder, _ORIGINAL), ""
    for summary in shown:
        record = summary.first
        measured = next((i for i in _point(record).images if i.name == image), None)
        note = "" if measured is None else f"{measured.bpp:.3f} bpp, {measured.psnr_db:.2f} dB"
        yield summary.name, _file(folder, record.identity), note


def _point(record: TrialRecord) -> RdPoint:
    """Return the middle rate, at which a variant is shown."""
    points = record.evaluation.points
    return points[len(points) // 2]


def _weights(out: Path, record: TrialRecord) -> Path | None:
    """Return the checkpoint of a training; None if another study or machine has it."""
    folder = out / TRIALS / record.identity
    lmbda = _point(record).lmbda
    places = [folder, *([] if lmbda is None else [folder / f"lambda-{lmbda:g}"])]
    files = (place / "model.safetensors" for place in places)
    return next((file for file in files if file.is_file()), None)


def _folders(out: Path, images: Sequence[str]) -> dict[str, Path]:
    """Return the folder of each image, by image name; each depends on all names of the study."""
    return {n: out / FOLDER / own for n, own in zip(images, file_names(images), strict=True)}


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.png"


def _write_crop(path: Path, pixels: Tensor) -> None:
    """Write the centre crop of an image (3, H, W) of bytes."""
    height, width = pixels.shape[1:]
    top, left = max(0, height - _HEIGHT) // 2, max(0, width - _WIDTH) // 2
    part = pixels[:, top : top + _HEIGHT, left : left + _WIDTH]
    write_atomically(path, image_bytes(part.permute(1, 2, 0).numpy(), "PNG"))


def _read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))

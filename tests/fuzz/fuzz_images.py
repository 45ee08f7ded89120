"""Image files with corrupted metadata and bodies, in training and evaluation.

``python tests/fuzz/fuzz_images.py 20000`` tries 20,000 files; the test suite tries the first few.
"""

from __future__ import annotations

import io
import logging
import struct
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
from limits import at_most
from numpy.typing import NDArray
from PIL import Image

from tcm_lab.data import CropSource, ImageSet, open_images
from tcm_lab.errors import LabError

_SIZE = (24, 16)  # width and height; a swapped orientation shows
_LOSSLESS = (".png", ".tiff", ".gif", ".bmp")
_SUFFIXES = (".jpg", ".png", ".tiff", ".webp", ".avif", ".gif", ".bmp")
_TAGS = (0x0112, 0x011A, 0x011B, 0x0128, 0x8769, 0x8825, 0x927C, 0x9286, 0x0100, 0xC4A5)
_VALUES = (
    b"\x01\x00", b"6", b"right", b"\x06\x00\x00\x00", b"", b"\xff" * 40, b"72/0",
    struct.pack("<d", 6.0), struct.pack("<II", 72, 0), struct.pack("<II", 2**32 - 1, 1),
    b"\x00\x03",
)  # fmt: skip


def picture() -> NDArray[np.uint8]:
    """Return a uint8 image (H, W, 3) with distinguishable corners."""
    width, height = _SIZE
    y, x = np.mgrid[:height, :width]
    return np.stack([10 * x, 15 * y, 5 * (x + y)], axis=2).astype(np.uint8)


def exif(rng: Random) -> bytes:
    """Return an EXIF block whose entries may have inconsistent types, counts and offsets."""
    order = rng.choice(("<", ">"))
    entries, extra = [], b""
    tags = [0x0112, *rng.sample(_TAGS, rng.randint(0, 4))]
    start = 8 + 2 + 12 * len(tags) + 4
    for tag in tags:
        kind, value = (
            rng.choice((1, 2, 3, 3, 4, 5, 7, 9, 10, 11, 12, 0, 13, 99)),
            rng.choice(_VALUES),
        )
        if tag == 0x0112 and rng.random() < 0.5:
            kind, value = 3, struct.pack(order + "H", rng.randint(0, 9))
        count = rng.choice((1, 1, 1, len(value), 0, 2, 4, 2**16, 2**32 - 1))
        if len(value) > 4 or rng.random() < 0.1:
            field = struct.pack(order + "I", rng.choice((start + len(extra), start, 0, 2**31, 7)))
            extra += value
        else:
            field = value.ljust(4, b"\0")
        entries.append(struct.pack(order + "HHI", tag, kind, count) + field)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    following = struct.pack(order + "I", rng.choice((0, 0, 0, 8, 2**32 - 1)))
    head = mark + struct.pack(order + "I", 8) + struct.pack(order + "H", len(tags))
    block = head + b"".join(entries) + following + extra
    return b"Exif\0\0" + (block if rng.random() < 0.9 else block[: rng.randrange(len(block))])


def encoded(suffix: str, rng: Random) -> bytes:
    """Encode the image with odd metadata, if the format has any."""
    image, file = Image.fromarray(picture()), io.BytesIO()
    mode = rng.choice(("RGB", "RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16", "I", "F"))
    try:
        image.convert("L").convert(mode).save(file, suffix[1:].replace("jpg", "jpeg"))
    except (OSError, ValueError, KeyError):
        mode, file = "RGB", io.BytesIO()
    options = {"lossless": True} if suffix == ".webp" else {}
    if mode == "RGB":
        if suffix not in (".gif", ".bmp"):
            options["exif"] = exif(rng)
            options["icc_profile"] = rng.randbytes(rng.choice((0, 1, 127, 130, 300)))
        if suffix == ".png" and rng.random() < 0.3:
            options.pop("exif")
        try:
            image.save(file, suffix[1:].replace("jpg", "jpeg"), **options)
        except Exception:  # Pillow rewrites the block for some formats, and can't rewrite this one
            file = io.BytesIO()
            image.save(file, suffix[1:].replace("jpg", "jpeg"))
    return file.getvalue()


def mutants(rng: Random) -> Iterator[tuple[str, bytes, bool]]:
    """Yield suffix, bytes, and whether the pixels are certain to be unchanged."""
    while True:
        suffix = rng.choice(_SUFFIXES)
        data = bytearray(encoded(suffix, rng))
        intact = rng.random() < 0.4
        if not intact:
            for _ in range(rng.choice((1, 1, 2, 5))):
                _spoil(data, rng)
        named = suffix if rng.random() < 0.95 else rng.choice(_SUFFIXES)
        yield named, bytes(data), intact and named == suffix


def _spoil(data: bytearray, rng: Random) -> None:
    kind, head = rng.randrange(6), min(len(data), 400)
    if not data:
        return
    if kind <= 1:
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(head)] ^= 1 << rng.randrange(8)
    elif kind == 2:
        del data[rng.randrange(len(data)) :]
    elif kind == 3:
        at = rng.randrange(head)
        data[at : at + 4] = struct.pack(">I", rng.choice((0, 1, 2**16, 2**31 - 1, 2**32 - 1)))
    elif kind == 4:
        at = rng.randrange(len(data))
        data[at:at] = rng.randbytes(rng.choice((1, 8, 200)))
    else:
        data[rng.randrange(len(data))] = rng.randrange(256)


def _check_pixels(images: ImageSet, known: dict[str, str]) -> None:
    """Compare the decoded images with all eight orientations of the original."""
    flat = [np.rot90(picture(), turns) for turns in range(4)]
    ways = [*flat, *(way[:, ::-1] for way in flat)]
    for name, size in zip(images.names, images.sizes, strict=True):
        pixels = images.decode(images.names.index(name))
        assert pixels.dtype == np.uint8
        assert pixels.shape == (*size, 3), f"{name}: {pixels.shape} is not the declared {size}"
        if name in known and known[name] in _LOSSLESS and pixels[..., 0].any():
            colours = len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
            same = any(way.shape == pixels.shape and (way == pixels).all() for way in ways)
            grey = (pixels == pixels[..., :1]).all()
            assert same or grey or not colours or known[name] == ".gif", f"{name}: other pixels"


def fuzz(count: int, seed: int = 0, batch: int = 100) -> Counter[str]:
    """Try ``count`` files; return the numbers used, left out, and broken during training.

    Every file must be either used or reported. Any other exception is a defect.
    """
    rng, outcome = Random(seed), Counter[str]()
    source = mutants(rng)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as root:
        warnings.simplefilter("ignore")  # Pillow's warnings about such files
        logging.disable(logging.WARNING)
        try:
            for start in range(0, count, batch):
                folder = Path(root, str(start))
                folder.mkdir()
                intact = {}
                for number in range(min(batch, count - start)):
                    suffix, data, sure = next(source)
                    name = f"{number:04d}{suffix}"
                    (folder / name).write_bytes(data)
                    if sure:
                        intact[name] = suffix
                _try_folder(folder, intact, outcome)
        finally:
            logging.disable(logging.NOTSET)
    return outcome


def _try_folder(folder: Path, intact: dict[str, str], outcome: Counter[str]) -> None:
    there = {path.name for path in folder.iterdir()}
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "zz-sound.png")
    with at_most(60, folder):
        evaluated = open_images(folder, "eval")
        _check_pixels(evaluated, intact)
        reported = {reason.partition(":")[0] for reason in evaluated.skipped}
        assert there | {"zz-sound.png"} == set(evaluated.names) | reported
        trained = open_images(folder, "train")
        assert there | {"zz-sound.png"} == set(trained.names) | {
            reason.partition(":")[0] for reason in trained.skipped
        }
        assert set(evaluated.names) <= set(trained.names)
        crops = CropSource(trained, crop=8, seed=0)
        for index in range(len(trained)):
            try:
                trained.decode(index)
            except LabError:
                outcome["broke while training"] += 1
        assert crops.batch(0, len(there)).shape == (len(there), 3, 8, 8)
    outcome["used"] += len(evaluated) - 1
    outcome["left out"] += len(evaluated.skipped)


if __name__ == "__main__":
    print(dict(fuzz(int(sys.argv[1]))))

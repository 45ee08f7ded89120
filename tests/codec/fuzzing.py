"""Mutated, truncated and foreign ``.tcm`` files, most of them with valid checksums.

``python tests/codec/fuzzing.py 20000`` tries 20,000 files; the test suite tries the first few.
"""

from __future__ import annotations

import re
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1] / "fuzz"))
from limits import at_most  # in the folder of the other fuzzers

from tcm_lab.codec import VariantConfig, build, decode_image, encode_image
from tcm_lab.errors import LabError

#: Offsets and formats of the header's fields, as in the container's docstring.
_FIELDS = {
    4: "<B", 25: "<I", 29: "<I", 33: "<f", 37: "<I", 41: "<I", 45: "<I", 49: "<I",
}  # fmt: skip
_INTEGERS = (0, 1, 2, 7, 63, 64, 300, 65_535, 65_536, 65_537, 2**31 - 1, 2**31, 2**32 - 1)
_FLOATS = (-1.0, -0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 1e30, -1e30, float("nan"), float("inf"))
_HEADER = 49
_FOREIGN = (b"", b"TCM1", b"TCM2", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"PK\x03\x04", b"{}")


def small_codec(rate_levels: int = 3) -> Any:
    """Build a codec with two slices that decodes in milliseconds."""
    stage = {"resample": "conv", "width": 8}
    last = {"resample": "conv"}
    config = VariantConfig.parse(
        {
            "name": "small",
            "latent_channels": 8,
            "hyper_channels": 4,
            "rate_levels": rate_levels,
            "g_a": {"stages": [stage, last]},
            "g_s": {"stages": [stage, last]},
            "h_a": {"stages": [last]},
            "h_s": {"stages": [last]},
            "entropy_model": {"slices": [2, 6], "support": 1, "hidden": [8], "checkerboard": True},
        }
    )
    codec = build(config).eval()
    with torch.no_grad():
        for parameter in codec.g_a.stages[-1].resample.parameters():
            parameter.mul_(30)  # otherwise nearly every symbol is zero
    return codec


def written(codec: Any) -> list[bytes]:
    """Return files of images of three sizes, one of them portable."""
    generator = torch.Generator().manual_seed(0)
    return [
        encode_image(codec, torch.rand(3, *size, generator=generator), rate, portable=portable)
        for size, rate, portable in (
            ((1, 1), 0.0, False),
            ((24, 17), 1.5, True),
            ((60, 90), 2.0, False),
        )
    ]


def mutants(files: list[bytes], rng: Random) -> Iterator[bytes]:
    """Yield corrupted files endlessly."""
    while True:
        data = bytearray(rng.choice(files))
        for _ in range(rng.choice((1, 1, 2, 4))):
            data = _mutated(data, rng, files)
        if rng.random() < 0.75 and len(data) >= 4:
            data[-4:] = struct.pack("<I", zlib.crc32(data[:-4]))
        yield bytes(data)


def _mutated(data: bytearray, rng: Random, files: list[bytes]) -> bytearray:
    kind = rng.randrange(8)
    if kind == 0 and data:  # some bits
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind in (1, 2):  # a field of the header
        at, form = rng.choice(list(_FIELDS.items()))
        values: Any = _FLOATS if form == "<f" else _INTEGERS
        value = rng.choice(values)
        value = value % 256 if form == "<B" else value
        if len(data) >= at + 4:
            struct.pack_into(form, data, at, value)
    elif kind == 3:  # truncated, with consistent lengths
        data = data[: rng.randrange(len(data) + 1)]
        _agree(data, rng)
    elif kind == 4:  # extended, with consistent lengths
        data += rng.randbytes(rng.choice((1, 4, 64, 1000)))
        _agree(data, rng)
    elif kind == 5 and len(data) > _HEADER + 8:  # other streams of the same length
        data[_HEADER:-4] = rng.randbytes(len(data) - _HEADER - 4)
    elif kind == 6 and len(data) >= _HEADER:  # the streams of another file
        data[_HEADER:] = rng.choice(files)[_HEADER:]
        _agree(data, rng)
    elif kind == 7:  # another kind of file
        data = bytearray(rng.choice(_FOREIGN) + rng.randbytes(rng.choice((0, 10, 60, 500))))
    return data


def _agree(data: bytearray, rng: Random) -> None:
    """Make the lengths in the header consistent with the file's length, most of the time."""
    body = len(data) - _HEADER - 4
    if body < 0 or rng.random() < 0.1:
        return
    y = min(rng.choice((0, 4, body // 2, body // 8 * 4, body)), body)
    struct.pack_into("<II", data, 37, y, body - y)


def fuzz(codec: Any, count: int, seed: int = 0) -> tuple[int, Counter[str]]:
    """Return the number of mutants that decode, and of refusals by message, out of ``count``.

    Any other exception is a defect and propagates.
    """
    decoded, refused = 0, Counter[str]()
    source = mutants(written(codec), Random(seed))
    for number in range(count):
        data = next(source)
        try:
            with at_most(20, number):
                image = decode_image(codec, data)
        except LabError as error:
            refused[re.sub(r"[^ ]*\d[^ ]*", "#", str(error))[:60]] += 1
        else:
            assert image.shape[0] == 3
            assert 0 <= image.min() <= image.max() <= 1
            decoded += 1
    return decoded, refused


def main(count: int) -> None:
    """Try ``count`` mutants and print the outcomes."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    began = time.perf_counter()
    decoded, refused = fuzz(small_codec(), count)
    print(f"{count} files in {time.perf_counter() - began:.0f} s: {decoded} decoded, refused:")
    for message, times in refused.most_common():
        print(f"{times:7d}  {message}")


if __name__ == "__main__":
    main(int(sys.argv[1]))

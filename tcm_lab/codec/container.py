"""The coded file ``.tcm``: one image's bytes, and what verifies that they decode here.

Layout, little-endian: magic ``TCM1``; header (version, fingerprint of configuration and weights,
image size, rate, lengths, CRC-32 of the decoded symbols); y's stream; z's stream; CRC-32 of
everything before it. No header is trusted before that checksum holds, and no size in it unless the
streams' lengths can justify it.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tcm_lab.codec.coding import CodingError
from tcm_lab.codec.cost import padded_size
from tcm_lab.codec.model import Codec
from tcm_lab.errors import LabError

MAGIC = b"TCM1"
_HEADER = struct.Struct("<4sB12s8sIIfIII")  # magic, version … lengths, the symbols' checksum
_CRC = struct.Struct("<I")
_VERSION = 2
_NO_RATE = -1.0
#: A side that a header may claim, and how many pixels one byte of stream may stand for. A flat
#: image costs some 0.001 bits per pixel; anything beyond is a forged header, not an image.
_MAX_SIDE = 1 << 16
_MAX_PIXELS_PER_BYTE = 1 << 16


class ContainerError(LabError):
    """Bytes that are not a ``.tcm`` file, or one that this codec did not write."""


@dataclass(frozen=True)
class Header:
    """What a ``.tcm`` file holds before its streams.

    Attributes:
        config: fingerprint of the codec's configuration, 12 hexadecimal digits.
        weights: fingerprint of its weights, 8 bytes.
        size: (H, W) of the image.
        rate: rate level, or None for a codec without levels.
        y_bytes: length of y's stream.
        z_bytes: length of z's stream.
        checksum: CRC-32 of the symbols that the encoder wrote.
    """

    config: str
    weights: bytes
    size: tuple[int, int]
    rate: float | None
    y_bytes: int
    z_bytes: int
    checksum: int


def encode_image(codec: Codec, image: Float[Tensor, "3 h w"], rate: float | None = None) -> bytes:
    """Code one image (3, H, W) in [0, 1] to the bytes of a ``.tcm`` file.

    Raises:
        LabError: the image is too large for the container, or ``rate`` does not suit the codec.
    """
    height, width = image.shape[1:]
    if max(height, width) > _MAX_SIDE:
        raise ContainerError(f"the image is {height}x{width}; a side is at most {_MAX_SIDE}")
    _check_rate(codec, rate)
    coded = codec.compress(image[None], rate)
    (y,), (z,) = coded["strings"]
    header = _HEADER.pack(
        MAGIC,
        _VERSION,
        codec.config.fingerprint.encode(),
        weights_fingerprint(codec),
        height,
        width,
        _NO_RATE if rate is None else rate,
        len(y),
        len(z),
        coded["checksum"],
    )
    body = header + y + z
    return body + _CRC.pack(zlib.crc32(body))


def decode_image(codec: Codec, data: bytes) -> Float[Tensor, "3 h w"]:
    """Decode the bytes of a ``.tcm`` file to its image (3, H, W), clamped to [0, 1].

    Raises:
        LabError: the bytes are no whole ``.tcm`` file, another codec wrote them, or this device
            computes something else than the one that wrote them.
    """
    header = read_header(data)
    if header.config != codec.config.fingerprint:
        raise ContainerError(
            f"written by a codec of another configuration ({header.config}; this one, "
            f"{codec.config.name}, is {codec.config.fingerprint}); decode with that one"
        )
    if header.weights != weights_fingerprint(codec):
        raise ContainerError(
            f"written with other weights of {codec.config.name} "
            f"({header.weights.hex()}; these are {weights_fingerprint(codec).hex()})"
        )
    _check_rate(codec, header.rate)
    streams = data[_HEADER.size : -_CRC.size]
    y, z = streams[: header.y_bytes], streams[header.y_bytes :]
    stride = codec.config.stride[1]
    height, width = padded_size(codec.config, header.size)
    image = codec.decompress(
        [[y], [z]],
        (height // stride, width // stride),
        header.size,
        header.rate,
        header.checksum,
    )["x_hat"][0]
    if not torch.isfinite(image).all():
        raise CodingError("the decoded image is not finite: the weights do not suit this file")
    return image


def read_header(data: bytes) -> Header:
    """Read and check everything of a ``.tcm`` file that can be checked without its codec.

    Raises:
        ContainerError: the bytes are no ``.tcm`` file, are damaged, or claim what cannot be.
    """
    least = _HEADER.size + _CRC.size
    if data[: len(MAGIC)] != MAGIC:
        raise ContainerError("not a .tcm file (it does not begin with TCM1)")
    if len(data) < least:
        raise ContainerError(f"cut off: {len(data)} bytes, a header alone takes {least}")
    _, version, config, weights, height, width, rate, y_bytes, z_bytes, checksum = (
        _HEADER.unpack_from(data)
    )
    if version != _VERSION:
        raise ContainerError(f"container version {version}; this program reads version {_VERSION}")
    if least + y_bytes + z_bytes != len(data):
        raise ContainerError(
            f"{len(data)} bytes, but its header says {least + y_bytes + z_bytes}: cut off or padded"
        )
    if zlib.crc32(data[: -_CRC.size]) != _CRC.unpack_from(data, len(data) - _CRC.size)[0]:
        raise ContainerError("damaged: its checksum does not hold")
    pixels, streams = height * width, y_bytes + z_bytes
    if not (0 < height <= _MAX_SIDE and 0 < width <= _MAX_SIDE) or (
        pixels > (streams + 1) * _MAX_PIXELS_PER_BYTE
    ):
        raise ContainerError(f"claims {height}x{width} pixels in {streams} bytes")
    if not (rate == _NO_RATE or (math.isfinite(rate) and rate >= 0)):
        raise ContainerError(f"claims a rate of {rate}")
    return Header(
        config.decode("ascii", "replace"),
        weights,
        (height, width),
        None if rate == _NO_RATE else rate,
        y_bytes,
        z_bytes,
        checksum,
    )


def weights_fingerprint(codec: Codec) -> bytes:
    """Return 8 bytes that differ for different weights: two CRC-32 over all of them, in order."""
    plain = named = 0
    for name, value in sorted(codec.named_parameters()):
        data = value.detach().cpu().contiguous().numpy().data
        plain = zlib.crc32(data, plain)
        named = zlib.crc32(name.encode(), zlib.crc32(data, named))
    return struct.pack("<II", plain, named)


def _check_rate(codec: Codec, rate: float | None) -> None:
    levels = codec.config.rate_levels
    if levels and (rate is None or not 0 <= rate <= levels - 1):
        raise ContainerError(f"rate = {rate}: {codec.config.name} takes one from 0 to {levels - 1}")
    if not levels and rate is not None:
        raise ContainerError(f"rate = {rate}: {codec.config.name} has no rate levels; leave it out")

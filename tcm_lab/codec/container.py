"""The ``.tcm`` file: one coded image, and checks that it is decoded correctly.

Layout, little-endian: magic ``TCM1``; header (version, fingerprint of configuration and weights,
image size, rate, lengths, CRC-32 of the decoded symbols); y's stream; z's stream; CRC-32 of
everything before it. A portable file, version 3, also has the encoder's decisions after z's stream,
and their length at the end of the header. A header is not trusted before the checksum holds, and no
size in it unless the streams' lengths can justify it.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tcm_lab.codec.adapter import evaluating
from tcm_lab.codec.checkpoint import assembled, load_checkpoint
from tcm_lab.codec.coding import CodingError
from tcm_lab.codec.config import VariantConfig
from tcm_lab.codec.cost import padded_size
from tcm_lab.codec.inputs import check_images
from tcm_lab.codec.model import Codec
from tcm_lab.codec.names import trained_names
from tcm_lab.codec.state_dicts import COUNTS, constant_names, own_name, plain_name, table_names
from tcm_lab.errors import LabError

MAGIC = b"TCM1"
#: By version: magic, version … lengths of y and z, the symbols' checksum, length of the decisions.
_HEADERS = {2: struct.Struct("<4sB12s8sIIfIII"), 3: struct.Struct("<4sB12s8sIIfIIII")}
_VERSIONS = " and ".join(map(str, _HEADERS))
_CRC = struct.Struct("<I")
#: Bytes of a non-portable file without its streams.
FRAME_BYTES = _HEADERS[2].size + _CRC.size
_NO_RATE = -1.0
#: The largest side that a header may claim, and the most pixels per byte of stream, so that a
#: forged header takes no memory. A flat image usually costs some 0.001 bits per pixel.
_MAX_SIDE = 1 << 16
_MAX_PIXELS_PER_BYTE = 1 << 16
#: By codec and version: the last state of the weights, and their fingerprint.
_FINGERPRINTS: WeakKeyDictionary[Codec, dict[int, tuple[object, bytes]]] = WeakKeyDictionary()


class ContainerError(LabError):
    """Bytes that are not a ``.tcm`` file, or one that this codec did not write."""


@dataclass(frozen=True)
class Header:
    """The fields that precede the streams in a ``.tcm`` file.

    Attributes:
        config: fingerprint of the codec's configuration, 12 hexadecimal digits.
        weights: fingerprint of its weights, 8 bytes.
        size: (H, W) of the image.
        rate: rate level, or None for a codec without levels.
        y_bytes: length of y's stream.
        z_bytes: length of z's stream.
        checksum: CRC-32 of the symbols that the encoder wrote.
        decision_bytes: length of the encoder's decisions in a portable file; None in any other.
    """

    config: str
    weights: bytes
    size: tuple[int, int]
    rate: float | None
    y_bytes: int
    z_bytes: int
    checksum: int
    decision_bytes: int | None = None

    @property
    def version(self) -> int:
        """Version of the container; 3 is portable."""
        return 2 if self.decision_bytes is None else 3

    @property
    def length(self) -> int:
        """Length of the header in bytes."""
        return _HEADERS[self.version].size


def encode_image(
    codec: nn.Module, image: Tensor, rate: float | None = None, *, portable: bool = False
) -> bytes:
    """Code one image (3, H, W) in [0, 1] to the bytes of a ``.tcm`` file.

    Args:
        codec: the codec, which ``torch.compile`` or data parallelism may wrap.
        image: the image.
        rate: level of a rate-conditioned codec.
        portable: whether other devices, thread counts and library versions can decode it, too.

    Raises:
        LabError: ``image`` is not an image, or is too large for the container; or the codec does
            not have this ``rate``.
    """
    codec = assembled(codec, "code by its own compress()")
    check_images(image, next(codec.g_a.parameters()), single=True)
    height, width = image.shape[1:]
    if max(height, width) > _MAX_SIDE:
        raise ContainerError(f"the image is {height}x{width}; a side is at most {_MAX_SIDE}")
    _check_rate(codec, rate)
    with evaluating(codec):
        coded = codec.compress(image[None], rate, portable=portable)
    y, z, *decisions = (streams[0] for streams in coded["strings"])
    # Zeros after a stream change nothing; with fewer bytes, the header would look forged.
    missing = _least_bytes(height, width) - len(y) - len(z)
    z += bytes(4 * max(-(-missing // 4), 0))
    version = 3 if portable else 2
    header = _HEADERS[version].pack(
        MAGIC,
        version,
        codec.config.fingerprint.encode(),
        weights_fingerprint(codec, version),
        height,
        width,
        _NO_RATE if rate is None else rate,
        len(y),
        len(z),
        coded["checksum"],
        *map(len, decisions),
    )
    body = b"".join((header, y, z, *decisions))
    return body + _CRC.pack(zlib.crc32(body))


def decode_image(codec: nn.Module, data: bytes) -> Float[Tensor, "3 h w"]:
    """Decode the bytes of a ``.tcm`` file to its image (3, H, W), clamped to [0, 1].

    Raises:
        LabError: the bytes are not a complete ``.tcm`` file, another codec wrote them, or this
            device's results differ from those of the device that wrote them.
    """
    codec, header = assembled(codec, "decode by its own decompress()"), read_header(data)
    weights = weights_fingerprint(codec, header.version)
    if (header.config, header.weights) != (codec.config.fingerprint, weights):
        raise ContainerError(_other_codec(header, codec.config))
    _check_rate(codec, header.rate)
    streams = []
    start = header.length
    for length in (header.y_bytes, header.z_bytes, header.decision_bytes):
        if length is not None:
            streams.append([data[start : start + length]])
            start += length
    stride = codec.config.stride[1]
    height, width = padded_size(codec.config, header.size)
    shape = height // stride, width // stride
    with evaluating(codec):
        decoded = codec.decompress(streams, shape, header.size, header.rate, header.checksum)
    image = decoded["x_hat"][0]
    if not torch.isfinite(image).all():
        raise CodingError("the decoded image is not finite: the weights do not suit this file")
    return image


def read_header(data: bytes) -> Header:
    """Read the header of a ``.tcm`` file, and check all that needs no codec.

    Raises:
        ContainerError: the bytes are not a ``.tcm`` file, are damaged, or claim the impossible.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise ContainerError("not a .tcm file (it does not begin with TCM1)")
    version = data[len(MAGIC)] if len(data) > len(MAGIC) else 2
    if version not in _HEADERS:
        raise ContainerError(f"container version {version}; this program reads {_VERSIONS}")
    least = _HEADERS[version].size + _CRC.size
    if len(data) < least:
        raise ContainerError(f"cut off: {len(data)} bytes, but a header alone takes {least}")
    _, _, config, weights, height, width, rate, y_bytes, z_bytes, checksum, *decisions = _HEADERS[
        version
    ].unpack_from(data)
    whole = least + y_bytes + z_bytes + sum(decisions)
    if whole != len(data):
        raise ContainerError(f"{len(data)} bytes, but its header says {whole}: cut off or padded")
    if zlib.crc32(data[: -_CRC.size]) != _CRC.unpack_from(data, len(data) - _CRC.size)[0]:
        raise ContainerError("damaged: its checksum does not match")
    streams = y_bytes + z_bytes
    possible = 0 < height <= _MAX_SIDE and 0 < width <= _MAX_SIDE
    if not possible or streams < _least_bytes(height, width):
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
        *decisions,
    )


def _least_bytes(height: int, width: int) -> int:
    """Return the fewest bytes that an image's streams may have."""
    return -(-height * width // _MAX_PIXELS_PER_BYTE) - 1


def _other_codec(header: Header, config: VariantConfig) -> str:
    """Describe the codec that wrote a file, which is not the given one."""
    name = _trained(header.version).get((header.config, header.weights))
    advice = "the checkpoint that it was encoded with"
    if name is not None:
        advice = f"{name}, a trained codec of this package"
    if header.config == config.fingerprint:
        what = f"with other weights of {config.name}"
    else:
        what = f"by a codec with another configuration than {config.name}"
    return f"written {what}; decode it with {advice}"


@cache
def _trained(version: int) -> dict[tuple[str, bytes], str]:
    """Return the names of the package's trained codecs by their fingerprints."""
    codecs = {name: load_checkpoint(name) for name in trained_names()}
    return {
        (codec.config.fingerprint, weights_fingerprint(codec, version)): name
        for name, codec in codecs.items()
    }


def weights_fingerprint(codec: Codec, version: int) -> bytes:
    """Return 8 bytes that differ for different weights, however the codec is wrapped.

    Buffers of a user's layers, such as the statistics of a batch normalisation, count as weights.
    For version 3 the bytes do not depend on names, so that files survive a renaming.
    """
    with codec.reading():
        tensors = {**dict(codec.named_parameters()), **_saved_buffers(codec)}
        state, known = _state(tensors), _FINGERPRINTS.setdefault(codec, {})
        last_state, fingerprint = known.get(version, (None, b""))
        if state is None or state != last_state:
            fingerprint = _fingerprint(tensors, version)
            known[version] = state, fingerprint
    return fingerprint


def _state(tensors: Mapping[str, Tensor]) -> object:
    """Return what changes with the weights but takes less time; None: they do not tell.

    Torch does not count changes through ``tensor.data`` or NumPy, but they change the sum of bits.
    """
    if any(value.is_inference() for value in tensors.values()):
        return None
    identities = [
        (name, value.data_ptr(), value._version, value.dtype, value.shape, value.stride())
        for name, value in tensors.items()
    ]
    storages = [value.untyped_storage() for value in tensors.values()]
    return identities, [_sum_of_bits(each) for each in {s.data_ptr(): s for s in storages}.values()]


def _sum_of_bits(storage: torch.UntypedStorage) -> int:
    """Return the sum of a storage's 64-bit words, or of its bytes if they are no whole words."""
    dtype = torch.uint8 if storage.nbytes() % 8 else torch.int64
    return int(torch.empty(0, dtype=dtype, device=storage.device).set_(storage).sum())


def _fingerprint(tensors: Mapping[str, Tensor], version: int) -> bytes:
    named = {plain_name(name): value for name, value in tensors.items()}
    weights = {
        name: value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
        for name, value in sorted(named.items())
    }
    if version == 2:
        plain = by_name = 0
        for name, data in weights.items():
            plain = zlib.crc32(data, plain)
            by_name = zlib.crc32(name.encode(), zlib.crc32(data, by_name))
        return struct.pack("<II", plain, by_name)
    sums = (
        sorted(check(data) for data in weights.values()) for check in (zlib.crc32, zlib.adler32)
    )
    return struct.pack("<II", *(zlib.crc32(struct.pack(f"<{len(s)}I", *s)) for s in sums))


def _saved_buffers(codec: Codec) -> dict[str, Tensor]:
    """Return the saved buffers of a codec's layers; our own layers have none.

    The units of a normalised latent are left out, as they were when the first files were written.
    """
    parameters = {name for name, _ in codec.named_parameters(remove_duplicate=False)}
    left_out = parameters | table_names(codec) | constant_names(codec) | {"y_unit"}
    return {
        name: value
        for name, value in codec.state_dict().items()
        if name not in left_out and own_name(name) not in COUNTS and isinstance(value, Tensor)
    }


def _check_rate(codec: Codec, rate: float | None) -> None:
    levels = codec.config.rate_levels
    if levels and not _lies_between(rate, 0, levels - 1):
        given = "no rate is given (--rate)" if rate is None else f"rate = {rate}"
        raise ContainerError(f"{given}: {codec.config.name} needs one from 0 to {levels - 1}")
    if not levels and rate is not None:
        raise ContainerError(f"rate = {rate}: {codec.config.name} has no rate levels; leave it out")


def _lies_between(value: float | None, low: int, high: int) -> bool:
    """Return whether ``value`` is a number in the range."""
    try:
        return value is not None and low <= float(value) <= high
    except (TypeError, ValueError, RuntimeError):
        return False

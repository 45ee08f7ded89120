"""Payload of image files: the bytes that code the image, for comparisons without headers.

Counted in JPEG: the entropy-coded data of every scan, from the end of its SOS segment to the next
marker other than a restart marker. Stuffed zeros and restart markers are included, since decoders
need them there. Counted in WebP: the data of the chunk ``VP8 `` or ``VP8L``, whose bitstream
includes the frame header and its probabilities.

Not counted: in JPEG, markers and their segments (quantisation tables, Huffman tables including
optimised ones, headers of frame and scans, comments, profiles); in WebP, the headers of RIFF and
chunks, padding, and every other chunk.
"""

from __future__ import annotations

import re

from tcm_lab.errors import LabError

_SOI, _SOS, _EOI = b"\xff\xd8", 0xDA, 0xD9
_MARKER = re.compile(rb"\xff+([^\x00\xff])")  # any number of fill bytes may precede a marker
_SCAN_END = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_BITSTREAMS = (b"VP8 ", b"VP8L")


def jpeg_payload_bytes(data: bytes) -> int:
    """Return the number of bytes of entropy-coded data in a JPEG file, over all its scans.

    Raises:
        LabError: the file is not a JPEG file, or is truncated.
    """
    if not data.startswith(_SOI):
        raise LabError("this file does not begin like a JPEG file. Give a complete one.")
    position, counted = len(_SOI), 0
    while marker := _MARKER.match(data, position):
        position, code = marker.end(), marker[1][0]
        if code == _EOI:
            return counted
        position += int.from_bytes(data[position : position + 2], "big")  # a length counts itself
        if code == _SOS:
            end = _SCAN_END.search(data, position)
            if end is None:
                break
            counted += end.start() - position
            position = end.start()
    raise LabError("this JPEG file ends before its end marker. Give a complete one.")


def webp_payload_bytes(data: bytes) -> int:
    """Return the number of bytes of the image's bitstream in a WebP file.

    Raises:
        LabError: the file is not a WebP file, holds no still image, or is truncated.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise LabError("this file does not begin like a WebP file. Give a complete one.")
    start = 12
    while start + 8 <= len(data):
        name, size = data[start : start + 4], int.from_bytes(data[start + 4 : start + 8], "little")
        start += 8
        if name in _BITSTREAMS and start + size <= len(data):
            return size
        start += size + size % 2  # chunks begin at even offsets
    raise LabError("this WebP file holds no complete still image. Give one that does.")

"""Which bytes of an image file code the image: what is compared where headers would decide.

Counted in JPEG: the entropy-coded data of every scan, from the end of its SOS segment to the next
marker that is no restart marker. Stuffed zeros and restart markers are part of it: decoders need
them there. Counted in WebP: the data of the chunk ``VP8 `` or ``VP8L``, in which the header of the
frame and its probabilities are part of the bitstream.

Not counted: in JPEG, markers and their segments (tables of quantisation and of Huffman codes, also
optimised ones, headers of frame and scans, comments, profiles); in WebP, the headers of RIFF and
chunks, padding, and every other chunk.
"""

from __future__ import annotations

import re

from tcm_lab.errors import LabError

_SOI, _SOS, _EOI = b"\xff\xd8", 0xDA, 0xD9
_MARKER = re.compile(rb"\xff+([^\x00\xff])")  # any number of fill bytes may stand before one
_SCAN_END = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_BITSTREAMS = (b"VP8 ", b"VP8L")


def jpeg_payload_bytes(data: bytes) -> int:
    """Return how many bytes of a JPEG file are entropy-coded data, over all its scans.

    Raises:
        LabError: the file is no JPEG, or is cut off.
    """
    if not data.startswith(_SOI):
        raise LabError("this file does not begin as a JPEG file does. Give one that is whole.")
    place, counted = len(_SOI), 0
    while marker := _MARKER.match(data, place):
        place, code = marker.end(), marker[1][0]
        if code == _EOI:
            return counted
        place += int.from_bytes(data[place : place + 2], "big")  # a segment's length counts itself
        if code == _SOS:
            end = _SCAN_END.search(data, place)
            if end is None:
                break
            counted += end.start() - place
            place = end.start()
    raise LabError("this JPEG file ends before its end marker. Give one that is whole.")


def webp_payload_bytes(data: bytes) -> int:
    """Return how many bytes of a WebP file are the bitstream of its image.

    Raises:
        LabError: the file is no WebP, holds no still image, or is cut off.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise LabError("this file does not begin as a WebP file does. Give one that is whole.")
    place = 12
    while place + 8 <= len(data):
        name, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8
        if name in _BITSTREAMS and place + size <= len(data):
            return size
        place += size + size % 2  # chunks begin at even places
    raise LabError("this WebP file holds no whole still image. Give one that does.")

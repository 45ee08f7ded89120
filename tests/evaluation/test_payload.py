"""What codes the image in a file, against the formats' definitions, and comparisons by it."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tcm_lab.data import ImageSet, open_images
from tcm_lab.errors import LabError
from tcm_lab.evaluation import (
    RdRecord,
    bd_rate,
    bd_rate_interval,
    evaluate_anchor,
    measure,
    published_curve,
    rate_percents,
)
from tcm_lab.evaluation.payload import jpeg_payload_bytes, webp_payload_bytes

LONG = {"icc_profile": bytes(range(256)) * 300, "exif": b"Exif\0\0" + b"\xff\xd9\xff\xda" * 9000}


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.fixture
def photograph() -> Image.Image:
    """Waves with noise, whose data hold bytes of 255."""
    rows, columns = np.mgrid[0:67, 0:90]
    waves = np.stack([rows * 3, columns * 2, rows + columns], axis=-1)
    noise = np.random.default_rng(0).integers(0, 60, waves.shape)
    return Image.fromarray((waves * 0.75 + noise).astype(np.uint8))


def outside_segments(data: bytes) -> int:
    """Count what a JPEG holds beside markers and segments, byte by byte, from first to last."""
    place, rest = 0, 0
    while place < len(data):
        if data[place] != 0xFF or data[place + 1] == 0 or 0xD0 <= data[place + 1] <= 0xD7:
            alone = data[place] != 0xFF
            rest += 1 if alone else 2
            place += 1 if alone else 2
        elif data[place + 1] in (0xD8, 0xD9):  # beginning and end have no length
            place += 2
        else:
            place += 2 + struct.unpack(">H", data[place + 2 : place + 4])[0]
    return rest


@pytest.mark.parametrize("restart", [0, 1, 3])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("quality", [5, 60, 98])
def test_the_payload_of_a_jpeg_is_all_but_its_markers_and_segments(
    photograph: Image.Image, restart: int, progressive: bool, quality: int
) -> None:
    data = saved(
        photograph, "jpeg", quality=quality, progressive=progressive, optimize=True,
        restart_marker_blocks=restart,
    )  # fmt: skip
    assert (data.count(b"\xff\xda") > 1) == progressive  # of several scans
    assert (b"\xff\xd0" in data) == bool(restart)
    assert jpeg_payload_bytes(data) == outside_segments(data) < len(data)


def test_the_payload_of_a_flat_jpeg_is_as_long_as_the_standards_tables_say() -> None:
    # By the tables of annex K a block without change is 6 bits of luma or 4 of chroma; 4:2:0 has
    # four and two blocks in each 16x16 pixels, so 4 bytes. 16 such are in the image.
    flat = Image.new("RGB", (64, 64), (128, 128, 128))
    assert jpeg_payload_bytes(saved(flat, "jpeg", subsampling="4:2:0")) == 16 * 4
    restarted = saved(flat, "jpeg", subsampling="4:2:0", restart_marker_blocks=1)
    assert jpeg_payload_bytes(restarted) == 16 * 4 + 15 * 2


def test_metadata_are_no_part_of_a_payload(photograph: Image.Image) -> None:
    plain = saved(photograph, "jpeg")
    long = saved(photograph, "jpeg", comment=b"\xff\xda\xff\xd9" * 5000, **LONG)
    assert len(long) > len(plain) + 120_000
    assert jpeg_payload_bytes(long) == jpeg_payload_bytes(plain)
    filled = plain[:-2] + b"\xff\xff" + plain[-2:]  # before the end, as the standard allows
    assert jpeg_payload_bytes(filled) == jpeg_payload_bytes(plain)


@pytest.mark.parametrize("lossless", [False, True])
def test_the_payload_of_a_webp_is_the_chunk_of_its_bitstream(
    photograph: Image.Image, lossless: bool
) -> None:
    plain = saved(photograph, "webp", lossless=lossless)
    (size,) = struct.unpack("<I", plain[16:20])
    assert plain[12:16] == (b"VP8L" if lossless else b"VP8 ")
    assert webp_payload_bytes(plain) == size
    assert len(plain) == 12 + 8 + size + size % 2
    long = saved(photograph, "webp", lossless=lossless, **LONG)
    assert len(long) > len(plain) + 100_000
    assert webp_payload_bytes(long) == size


def test_files_of_other_formats_and_cut_ones_are_refused(photograph: Image.Image) -> None:
    jpeg, webp = saved(photograph, "jpeg"), saved(photograph, "webp")
    for read, data in ((jpeg_payload_bytes, jpeg), (webp_payload_bytes, webp)):
        for spoilt in (b"", data[:2], data[: len(data) // 2], data[:-2], b"P6" + data[2:]):
            with pytest.raises(LabError, match=r"Give (a complete one|one that does)\.$"):
                read(spoilt)


@pytest.fixture
def images(tmp_path: Path, photograph: Image.Image) -> ImageSet:
    photograph.save(tmp_path / "a.png")
    photograph.rotate(90, expand=True).save(tmp_path / "b.png")
    return open_images(tmp_path, "eval")


def test_a_comparison_does_not_change_with_what_a_file_says_beside_the_image(
    images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    qualities = [10, 30, 50, 70, 90]
    own = evaluate_anchor("webp", images, qualities)
    plain = evaluate_anchor("jpeg", images, qualities)
    monkeypatch.setitem(measure._OPTIONS, "jpeg", measure._OPTIONS["jpeg"] | LONG)
    long = evaluate_anchor("jpeg", images, qualities)
    assert long.bpp[0] > plain.bpp[0] + 8 * 100_000 / (67 * 90)
    before, after = (each.curve(counted="payload") for each in (plain, long))
    assert before == after
    judged = own.curve(counted="payload")
    assert rate_percents(before, judged) == rate_percents(after, judged)
    intervals = [
        bd_rate_interval([each], [own], samples=20, counted="payload") for each in (plain, long)
    ]
    assert intervals[0] == intervals[1]
    assert intervals[0].value == pytest.approx(bd_rate(before, judged).percent)


def test_a_payload_is_not_compared_with_a_file(images: ImageSet) -> None:
    record = evaluate_anchor("jpeg", images, [10, 50])
    for anchor in (record.curve(), published_curve("bpg")):
        for compare in (bd_rate, rate_percents):
            with pytest.raises(LabError, match=r"count the file and .* count the payload"):
                compare(anchor, record.curve(counted="payload"))


def test_a_record_without_payloads_is_refused_or_read_by_what_it_holds(images: ImageSet) -> None:
    record = evaluate_anchor("jpeg", images, [10, 50])

    def earlier(estimated: float | None) -> RdRecord:
        changes = {"payload_bits": None, "estimated_bits": estimated}
        points = tuple(
            point.model_copy(
                update={"images": tuple(i.model_copy(update=changes) for i in point.images)}
            )
            for point in record.points
        )
        return record.model_copy(update={"points": points})

    assert record.has_payloads
    assert not earlier(None).has_payloads
    with pytest.raises(LabError, match=r"^jpeg: its record is from an earlier .* Measure it again"):
        earlier(None).curve(counted="payload")
    with pytest.raises(LabError, match="jpeg: its record"):
        bd_rate_interval([earlier(None)], [record], counted="payload")
    assert earlier(None).curve() == record.curve()
    # Of a codec such records hold the streams alone.
    assert earlier(1.0).curve(counted="payload").bpp == record.bpp

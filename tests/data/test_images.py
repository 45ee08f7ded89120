import logging
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from tcm_lab.data import CropSource, Purpose, open_images
from tcm_lab.errors import LabError

PURPOSES: tuple[Purpose, ...] = ("train", "eval")


def save(path: Path, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, "red" if mode == "RGB" else 0).save(path)


def test_the_embedded_photographs_are_split_by_name_without_a_common_scene() -> None:
    train, evaluation = open_images(None, "train"), open_images(None, "eval")
    assert not set(train.names) & set(evaluation.names)
    assert {"motorcycle_left.png", "motorcycle_right.png"} <= set(train.names)
    for image in evaluation:
        assert image.dtype == torch.uint8
        assert image.shape[0] == 3
        # colour: the channels differ
        assert (image[0] != image[2]).any()


def test_nested_folders_and_every_format_are_found_in_the_order_of_their_names(
    tmp_path: Path,
) -> None:
    for name in ("b/deep/er.webp", "a.png", "b/c.jpg", "z.tiff", "y.bmp"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    images = open_images(tmp_path, "eval")
    assert images.names == ("a.png", "b/c.jpg", "b/deep/er.webp", "y.bmp", "z.tiff")
    assert images.sizes == ((30, 40),) * 5
    assert images.skipped == ()
    assert images[0][:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("purpose", ["train", "eval"])
def test_a_broken_image_is_left_out_and_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, purpose: Purpose
) -> None:
    save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"not an image")
    with caplog.at_level(logging.WARNING):
        images = open_images(tmp_path, purpose)
    assert images.names == ("good.png",)
    assert len(images.skipped) == 1
    assert images.skipped[0].startswith("bad.png")
    assert len(caplog.records) == 1


def test_a_truncated_evaluation_image_is_found_before_it_is_needed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("whole.png", "cut.png"):
        Image.fromarray(noise).save(tmp_path / name)
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    assert open_images(tmp_path, "eval").names == ("whole.png",)


def test_images_below_the_crop_are_reported_once_and_none_left_is_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "small.png", (100, 20))
    save(tmp_path / "large.png", (100, 90))
    every = open_images(tmp_path, "train")
    for _ in range(2):
        images = every.at_least(64)
        assert images.names == ("large.png",)
        assert images.skipped == ("small.png: 20x100 is below 64x64",)
    assert caplog.text.count("1 image left out (small.png: 20x100 is below 64x64)") == 1
    with pytest.raises(LabError, match="smaller than the crop of 128x128"):
        images.at_least(128)


def test_missing_and_empty_folders_are_named_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"nowhere.*no such folder"):
        open_images(tmp_path / "nowhere", "train")
    with pytest.raises(LabError, match=r"no image.*Put PNG"):
        open_images(tmp_path, "train")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(LabError, match=r"notes\.txt: is not an image\. Name a PNG"):
        open_images(tmp_path / "notes.txt", "eval")
    (tmp_path / "notes.png").write_text("no image")
    with pytest.raises(LabError, match=r"notes\.png: cannot be used.*Name a PNG"):
        open_images(tmp_path / "notes.png", "eval")


def test_the_fingerprint_follows_the_contents(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    before = open_images(tmp_path, "train").fingerprint
    assert open_images(tmp_path, "eval").fingerprint == before
    Image.new("RGB", (40, 30), "blue").save(tmp_path / "a.png")
    assert open_images(tmp_path, "train").fingerprint != before


def test_sixteen_bit_grey_is_scaled_rather_than_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 0x8000, np.uint16)).save(tmp_path / "deep.png")
    assert open_images(tmp_path, "eval")[0].unique().tolist() == [0x80]


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tiff", "bmp"])
def test_a_training_image_is_not_decoded_before_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    save(tmp_path / f"a.{ending}")

    def load(image: Image.Image) -> None:
        raise AssertionError(f"{type(image).__name__} was decoded")

    with Image.open(tmp_path / f"a.{ending}") as image:
        monkeypatch.setattr(type(image), "load", load)
    images = open_images(tmp_path, "train")
    assert images.skipped == ()
    assert images.sizes == ((30, 40),)


def test_what_is_hidden_is_left_out(tmp_path: Path) -> None:
    for name in ("a.png", ".thumbnails/a.png", "b/.cache/deep/a.png", "b/._a.png"):
        save(tmp_path / name)
    assert open_images(tmp_path, "train").names == ("a.png",)
    assert open_images(tmp_path / ".thumbnails", "train").names == ("a.png",)


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_rotated_photograph_is_turned_upright(tmp_path: Path, ending: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / f"a.{ending}", exif=exif)
    for purpose in PURPOSES:
        images = open_images(tmp_path, purpose)
        assert images.sizes == ((40, 30),)
        assert images[0].shape == (3, 40, 30)


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("mode", ["L", "I;16", "P", "RGB", "RGBA", "CMYK"])
def test_a_rotated_tiff_is_turned_upright(
    tmp_path: Path, mode: str, compression: str | None, purpose: Purpose
) -> None:
    values = np.arange(40 * 64, dtype=np.uint8).reshape(40, 64)
    image = Image.fromarray(values).convert("RGBA" if mode == "RGBA" else "L")
    image = Image.fromarray(values * np.uint16(257)) if mode == "I;16" else image.convert(mode)
    for name, orientation in (("plain", 1), ("turned", 6)):
        path = tmp_path / f"{name}.tif"
        image.save(path, tiffinfo={0x0112: orientation}, compression=compression)
    images = open_images(tmp_path, purpose)
    assert images.sizes == ((40, 64), (64, 40))
    assert torch.equal(images[1], images[0].rot90(-1, (1, 2)))


def grey(dtype: str, value: float) -> Image.Image:
    return Image.fromarray(np.full((40, 40), value, dtype))


def transparent(mode: str) -> Image.Image:
    image = Image.new(mode, (40, 40), (9,) * (len(mode) - 1) + (255,))
    image.putpixel((0, 0), (9,) * (len(mode) - 1) + (0,))
    return image


def write_tiff(path: Path, *, bits: int = 16, photometric: int = 1, sample_format: int = 1) -> None:
    """Write grey of 40x40, as cameras and scanners do."""
    pixels = bytes(40 * 40 * bits // 8)
    tags = {
        256: 40, 257: 40, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 40,
        279: len(pixels), 339: sample_format,
    }  # fmt: skip
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    head = b"II*\0" + struct.pack("<I", 8 + len(pixels))
    path.write_bytes(head + pixels + struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4))


def frames(path: Path) -> None:
    """Save three images in one file."""
    images = [Image.new("RGB", (40, 40), colour) for colour in ("red", "lime", "blue")]
    images[0].save(path, save_all=True, append_images=images[1:])


UNUSABLE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "32-bit integers": ("tiff", lambda path: grey("int32", 70_000).save(path)),
    "floats": ("tiff", lambda path: grey("float32", 0.5).save(path)),
    "0 to 255 in 32 bits": ("tiff", lambda path: grey("int32", 255).save(path)),
    "12 bits": ("tiff", lambda path: write_tiff(path, bits=12)),
    "16 bits from white down": ("tiff", lambda path: write_tiff(path, photometric=0)),
    "16 bits with a sign": ("tiff", lambda path: write_tiff(path, sample_format=2)),
    "LAB": ("tiff", lambda path: Image.new("LAB", (40, 40)).save(path)),
    "a transparent corner": ("png", lambda path: transparent("RGBA").save(path)),
    "transparent grey": ("png", lambda path: transparent("LA").save(path)),
    "a transparent colour": (
        "png",
        lambda path: Image.new("P", (40, 40)).save(path, transparency=0),
    ),
    "transparent WebP": ("webp", lambda path: transparent("RGBA").save(path, lossless=True)),
    **{f"several in one {ending}": (ending, frames) for ending in ("gif", "png", "webp", "tiff")},
    "no image": ("png", lambda path: path.write_bytes(b"not an image")),
    "an empty file": ("jpg", lambda path: path.write_bytes(b"")),
    "a header alone": ("bmp", lambda path: path.write_bytes(b"BM" + bytes(20))),
    "a size of nothing": ("gif", lambda path: path.write_bytes(b"GIF89a" + bytes(7))),
}


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize("kind", list(UNUSABLE))
def test_an_image_that_cannot_be_used_is_left_out_and_counted(
    tmp_path: Path, kind: str, purpose: Purpose
) -> None:
    save(tmp_path / "good.png")
    ending, write = UNUSABLE[kind]
    write(tmp_path / f"bad.{ending}")
    images = open_images(tmp_path, purpose)
    if len(images) > 1:  # of a training image only the header is read before it is needed
        assert purpose == "train"
        crops = CropSource(images, crop=16, seed=0)
        crops.batch(0, 16)
        assert crops.skipped == (f"bad.{ending}: broken",)
        return
    assert images.names == ("good.png",)
    assert [reason.split(":")[0] for reason in images.skipped] == [f"bad.{ending}"]


@pytest.mark.parametrize("purpose", PURPOSES)
def test_of_a_single_image_the_reason_is_the_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, purpose: Purpose
) -> None:
    frames(tmp_path / "bad.gif")
    with pytest.raises(LabError, match=r"bad\.gif: cannot be used \(holds 3 frames or pages; save"):
        open_images(tmp_path / "bad.gif", purpose)
    assert not caplog.records


@pytest.mark.parametrize("purpose", PURPOSES)
def test_of_several_images_in_one_file_none_is_chosen(tmp_path: Path, purpose: Purpose) -> None:
    save(tmp_path / "good.png")
    frames(tmp_path / "bad.gif")
    frames(tmp_path / "photo.mpo")  # of a camera: the photograph, then its previews
    images = open_images(tmp_path, purpose)
    assert images.names == ("good.png", "photo.mpo")
    assert images.skipped == ("bad.gif: holds 3 frames or pages; save the intended one on its own",)


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize(
    ("image", "ending", "value"),
    [
        (Image.new("1", (40, 40), 1), "png", 255),
        (Image.new("L", (40, 40), 77), "tiff", 77),
        (grey("uint16", 0x4D4D), "png", 77),
        (grey("uint16", 0x4D4D), "tiff", 77),
        (Image.new("LA", (40, 40), (77, 255)), "png", 77),
        (Image.new("RGBA", (40, 40), (77, 77, 77, 255)), "webp", 77),
        (Image.new("L", (40, 40), 77), "gif", 77),
        (Image.new("YCbCr", (40, 40), (77, 128, 128)), "jpg", 77),
        (Image.new("CMYK", (40, 40), (178, 178, 178, 0)), "tiff", 77),
    ],
    ids=lambda value: getattr(value, "mode", str(value)),
)
def test_what_needs_no_guess_is_read_by_its_values(
    tmp_path: Path, image: Image.Image, ending: str, value: int, purpose: Purpose
) -> None:
    image.save(tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
    images = open_images(tmp_path, purpose)
    assert images.skipped == ()
    assert images[0].unique().tolist() == [value]


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (2, b"6\0\0\0"),  # text
        (2, b"up\0\0"),
        (1, b"\x06\0\0\0"),  # a byte
        (7, b"\x06\0\0\0"),  # undefined
        (3, b"\0\0\0\0"),  # a number that is no orientation
        (3, b"\0\x09\0\0"),
        (3, b"\xff\xff\0\0"),
    ],
)
def test_an_orientation_that_is_none_leaves_the_image_as_it_is(
    tmp_path: Path, kind: int, value: bytes, purpose: Purpose
) -> None:
    count = len(value.rstrip(b"\0")) + 1 if kind == 2 else 1
    entry = struct.pack(">HHHI", 1, 0x0112, kind, count) + value
    tags = b"Exif\0\0MM\0*" + struct.pack(">I", 8) + entry + bytes(4)
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=tags)
    images = open_images(tmp_path, purpose)
    assert images.sizes == ((30, 40),)
    assert images[0].shape == (3, 30, 40)


class Raising:
    """Stands for a reader of Pillow's that runs into what it did not expect."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, *_: object, **__: object) -> object:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [KeyError(274), TypeError("int"), IndexError(), ZeroDivisionError(), RuntimeError("codec"),
     MemoryError(), AttributeError("mode"), Image.DecompressionBombError("large")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_whatever_pillow_raises_leaves_one_image_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / name)
    plain = ImageOps.exif_transpose
    failing = Raising(error)

    def transpose(image: Image.Image) -> object:
        return (failing if str(image.filename).endswith("a.png") else plain)(image)

    monkeypatch.setattr(ImageOps, "exif_transpose", transpose)
    images = open_images(tmp_path, "eval")
    assert images.names == ("b.png",)
    assert images.skipped[0].startswith("a.png: ")
    crops = CropSource(open_images(tmp_path, "train"), crop=16, seed=0)
    assert crops.batch(0, 16).isfinite().all()
    assert crops.skipped == ("a.png: broken",)


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "shut\udce9").mkdir()  # a name of Latin-1
    scan = os.scandir

    def refuse(place: str) -> object:
        if Path(place).name in shut:
            raise PermissionError(13, "Permission denied", place)
        return scan(place)

    monkeypatch.setattr(os, "scandir", refuse)
    shut = ["shut\udce9"]
    images = open_images(tmp_path, "train")
    assert images.names == ("a.png",)
    assert images.skipped == ("shut\\xe9: Permission denied",)
    shut = [tmp_path.name]
    with pytest.raises(LabError, match=rf"{tmp_path.name}: cannot be read \(Permission denied\)"):
        open_images(tmp_path, "train")


def link(at: Path, to: Path) -> None:
    at.parent.mkdir(parents=True, exist_ok=True)
    at.symlink_to(to, target_is_directory=True)


@pytest.mark.parametrize(
    ("links", "names"),
    [
        ({"data/link": "apart"}, ("a/x.png", "link/y.png")),
        ({"data/a/loop": "data"}, ("a/x.png",)),
        ({"data/0": "data/a"}, ("a/x.png",)),
        ({"data/one": "apart", "data/two": "apart"}, ("a/x.png", "one/y.png")),
        ({"data/deep/link": "apart", "apart/back": "data"}, ("a/x.png", "deep/link/y.png")),
        ({"data/nowhere": "missing"}, ("a/x.png",)),
        ({"data/self": "data/self"}, ("a/x.png",)),
    ],
)
def test_linked_folders_are_searched_once_each(
    tmp_path: Path, links: dict[str, str], names: tuple[str, ...]
) -> None:
    save(tmp_path / "data/a/x.png")
    save(tmp_path / "apart/y.png")
    for at, to in links.items():
        link(tmp_path / at, tmp_path / to)
    assert open_images(tmp_path / "data", "train").names == names


def test_a_folder_may_be_a_link_itself(tmp_path: Path) -> None:
    save(tmp_path / "real/x.png")
    link(tmp_path / "link", tmp_path / "real")
    assert open_images(tmp_path / "link", "train").names == ("x.png",)

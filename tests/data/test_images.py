import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tcm_lab.data import open_images
from tcm_lab.errors import LabError


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


@pytest.mark.parametrize("role", ["train", "eval"])
def test_a_broken_image_is_left_out_and_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, role: str
) -> None:
    save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"not an image")
    with caplog.at_level(logging.WARNING):
        images = open_images(tmp_path, role)  # type: ignore[arg-type]
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


def test_images_below_the_crop_are_counted_and_none_left_is_an_error(tmp_path: Path) -> None:
    save(tmp_path / "small.png", (100, 20))
    save(tmp_path / "large.png", (100, 90))
    images = open_images(tmp_path, "train").at_least(64)
    assert images.names == ("large.png",)
    assert images.skipped == ("small.png: 20x100 is below 64x64",)
    with pytest.raises(LabError, match="smaller than the crop of 128x128"):
        images.at_least(128)


def test_missing_and_empty_folders_are_named_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"nowhere.*no such folder"):
        open_images(tmp_path / "nowhere", "train")
    with pytest.raises(LabError, match=r"no image.*Put PNG"):
        open_images(tmp_path, "train")


def test_the_fingerprint_follows_the_contents(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    before = open_images(tmp_path, "train").fingerprint
    assert open_images(tmp_path, "eval").fingerprint == before
    Image.new("RGB", (40, 30), "blue").save(tmp_path / "a.png")
    assert open_images(tmp_path, "train").fingerprint != before


def test_sixteen_bit_grey_is_scaled_rather_than_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 0x8000, np.uint16)).save(tmp_path / "deep.png")
    assert open_images(tmp_path, "eval")[0].unique().tolist() == [0x80]


def test_a_rotated_photograph_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    for role in ("train", "eval"):
        images = open_images(tmp_path, role)
        assert images.sizes == ((40, 30),)
        assert images[0].shape == (3, 40, 30)

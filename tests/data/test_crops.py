import itertools
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tcm_lab.data import CropSource, open_images, paint_dead_leaves, prefetch
from tcm_lab.errors import LabError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for index in range(3):
        pixels = rng.integers(0, 256, (40 + index, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return tmp_path


def source(folder: Path, **options: object) -> CropSource:
    return CropSource(open_images(folder, "train"), crop=32, seed=5, **options)  # type: ignore[arg-type]


def test_a_crop_is_a_pure_function_of_seed_and_index(folder: Path) -> None:
    one, other = source(folder), source(folder, cache_bytes=1)
    for step in (7, 3, 7):
        assert torch.equal(one.batch(step, 4), other.batch(step, 4))
    assert not torch.equal(one.batch(0, 4), one.batch(1, 4))


def test_ranks_share_the_global_batch_between_them(folder: Path) -> None:
    crops = source(folder, synthetic=True)
    whole = crops.batch(2, 6)
    parts = [crops.batch(2, 6, rank, 3) for rank in range(3)]
    assert torch.equal(torch.cat(parts), whole)
    with pytest.raises(LabError, match="multiple of 4"):
        crops.batch(0, 6, 0, 4)


def test_crops_are_cut_from_the_images_and_flipped(folder: Path) -> None:
    crops = source(folder)
    images = [image.float() / 255 for image in open_images(folder, "train")]
    windows = [p.unfold(1, 32, 1).unfold(2, 32, 1) for p in images]
    flips = []
    for crop in crops.batch(0, 8):
        assert crop.shape == (3, 32, 32)
        (flip,) = (  # of pixels by chance no two windows are alike
            dims
            for dims in ((), (1,), (2,), (1, 2))
            for window in windows
            if ((window - crop.flip(dims)[:, None, None]).abs().amax((0, 3, 4)) < 1e-6).any()
        )
        flips.append(flip)
    assert () in flips
    assert len(set(flips)) > 1


def test_only_the_embedded_images_are_mixed_with_dead_leaves(folder: Path) -> None:
    assert CropSource(open_images(None, "train"), crop=32, seed=0).synthetic
    assert not source(folder).synthetic


def test_an_image_that_breaks_later_is_replaced_reported_once_and_counted(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crops = source(folder)
    data = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(data[:200])
    assert crops.batch(0, 32).isfinite().all()
    assert len(caplog.records) == 1
    assert crops.skipped == ("1.png: broken",)


def test_an_image_that_shrinks_later_is_replaced_as_a_broken_one(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crops = source(folder)
    Image.new("RGB", (20, 60)).save(folder / "1.png")
    assert crops.batch(0, 32).shape == (32, 3, 32, 32)
    assert crops.skipped == ("1.png: broken",)
    assert "1.png: is 60x20 now, below the crop of 32x32." in caplog.text


def test_large_folders_are_visited_in_pools_so_that_decoding_pays(tmp_path: Path) -> None:
    for index in range(300):
        Image.new("RGB", (32, 32), (index % 256, index // 256, 7)).save(tmp_path / f"{index}.bmp")
    crops = source(tmp_path)

    def images(first_step: int) -> set[tuple[float, ...]]:
        batches = [crops.batch(first_step + step, 64) for step in range(32)]
        return {tuple(crop[:, 0, 0].tolist()) for batch in batches for crop in batch}

    first, second = images(0), images(32)
    assert len(first) == len(second) == 256
    assert first != second


def test_dead_leaves_follow_from_their_seed_and_are_painted_fast_enough() -> None:
    started = time.process_time()
    canvas = paint_dead_leaves((1, 2), 256)
    # 256x256 pixels hold four crops of 128x128; a hundred a second would be 0.04 s
    assert time.process_time() - started < 0.5
    assert canvas.shape == (256, 256, 3)
    assert np.array_equal(canvas, paint_dead_leaves((1, 2), 256))
    assert not np.array_equal(canvas, paint_dead_leaves((1, 3), 256))


@pytest.mark.parametrize("side", [1, 2, 7, 16, 33, 47])
def test_dead_leaves_are_painted_on_a_canvas_of_any_size(side: int) -> None:
    canvases = [paint_dead_leaves((0, number), side) for number in range(20)]
    assert all(canvas.shape == (side, side, 3) for canvas in canvases)
    colours = [len(np.unique(canvas.reshape(-1, 3), axis=0)) for canvas in canvases]
    assert side < 7 or min(colours) > side  # several leaves with shades of their own


def test_dead_leaves_have_a_natural_power_spectrum() -> None:
    # Power of photographs falls as f^-alpha with alpha about 2 (Field 1987: 1.6 to 2.4).
    slopes = []
    for number in range(6):
        luma = paint_dead_leaves((0, number), 256).mean(2)
        window = np.hanning(256)
        power = np.abs(np.fft.fft2((luma - luma.mean()) * window[:, None] * window)) ** 2
        radius = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
        bands = np.geomspace(4 / 256, 0.4, 9)
        means = [power[(radius >= a) & (radius < b)].mean() for a, b in itertools.pairwise(bands)]
        slopes.append(np.polyfit(np.log(bands[:-1]), np.log(means), 1)[0])
    assert -3.0 < np.mean(slopes) < -1.6


def test_prefetching_changes_neither_the_batches_nor_their_order(folder: Path) -> None:
    crops = source(folder)
    batches = list(prefetch(crops, range(3, 12), 4, workers=3))
    assert len(batches) == 9
    for step, batch in zip(range(3, 12), batches, strict=True):
        assert torch.equal(batch, crops.batch(step, 4))


def test_an_error_in_the_source_reaches_the_one_who_waits_for_its_batch(folder: Path) -> None:
    with pytest.raises(LabError, match="multiple of 3"):
        next(prefetch(source(folder), range(2), 4, world=3))

"""Estimates from crops against what coding gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tcm_lab._utils.devices import arithmetic
from tcm_lab.codec import build
from tcm_lab.data import ImageSet, open_images
from tcm_lab.evaluation import evaluate, evaluate_crops
from tcm_lab.training import get_recipe


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    for i, size in enumerate(((64, 64), (50, 64))):
        pixels = torch.randint(256, (*size, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return open_images(tmp_path, "eval")


@pytest.mark.parametrize("levels", [0, 2])
def test_estimates_are_those_of_the_coder_s_evaluation(images: ImageSet, levels: int) -> None:
    codec = build("tcm-nano", {"rate_levels": levels})
    recipe = get_recipe("laptop").suited(64, levels)
    found = evaluate_crops(codec, images, crop=64, recipe=recipe)
    coded = evaluate(codec, images, recipe=recipe)
    assert [point.lmbda for point in found.points] == [*recipe.lambdas]
    assert [point.rate for point in found.points] == [point.rate for point in coded.points]
    for ours, theirs in zip(found.points, coded.points, strict=True):
        for a, b in zip(ours.images, theirs.images, strict=True):
            assert a.estimated_bits == pytest.approx(b.estimated_bits, rel=1e-5)
            assert a.psnr_db == pytest.approx(b.psnr_db, abs=1e-3)
            assert (a.name, a.height, a.width) == (b.name, b.height, b.width)


def test_the_middle_is_taken_and_is_other_data_than_the_whole(images: ImageSet) -> None:
    codec = build("tcm-nano")
    found = evaluate_crops(codec, images, crop=32)
    assert {(image.height, image.width) for image in found.points[0].images} == {(32, 32)}
    assert found.data_fingerprint != evaluate_crops(codec, images, crop=64).data_fingerprint
    assert found.data_fingerprint != images.fingerprint


def test_estimates_are_in_float32_as_their_record_says(images: ImageSet) -> None:
    products = torch.backends.cudnn, torch.backends.cuda.matmul
    codec = build("tcm-nano", {"?_?.depth": 0})
    allowed: list[bool] = []
    codec.g_a.register_forward_hook(lambda *_: allowed.extend(p.allow_tf32 for p in products))
    with arithmetic("tf32", torch.device("cuda")):
        assert evaluate_crops(codec, images, crop=32).precision == "float32"
        assert all(each.allow_tf32 for each in products)
    assert allowed == 4 * [False]


def test_an_image_is_analysed_once_for_all_rates() -> None:
    codec = build("tcm-nano", {"rate_levels": 3}).eval()
    image, rates = torch.rand(1, 3, 50, 70), torch.arange(3.0)
    analysed: list[int] = []
    with codec.g_a.register_forward_hook(lambda _, inputs, __: analysed.append(len(inputs[0]))):
        once, several = (
            codec(image.expand(3, -1, -1, -1), rates),
            codec(image.repeat(3, 1, 1, 1), rates),
        )
    assert analysed == [1, 3]
    for name, values in several["likelihoods"].items():
        torch.testing.assert_close(once["likelihoods"][name], values)
    torch.testing.assert_close(once["x_hat"], several["x_hat"])
    assert codec(image.expand(3, -1, -1, -1), 1)["x_hat"].shape == (3, 3, 50, 70)

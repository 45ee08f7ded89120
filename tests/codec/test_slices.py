"""What a slice of the latent sees: so many earlier slices, and of its own the other colour."""

from typing import Any

import pytest
import torch
from torch import Tensor

import tcm_lab
from tcm_lab.codec import Channels, Coder
from tcm_lab.codec.entropy_models.slices import CheckerboardContext
from tcm_lab.codec.entropy_models.slicing import checkerboard


def test_a_checkerboard_context_sees_the_other_colour_alone_and_all_of_it() -> None:
    x = torch.zeros(1, 2, 9, 9, requires_grad=True)
    out = CheckerboardContext(2, 3)(x)[0, :, 4, 4]
    (gradient,) = torch.autograd.grad((out * torch.randn(3)).sum(), x)
    seen = {(int(y) - 4, int(x) - 4) for y, x in gradient[0].abs().sum(0).nonzero()}
    around = range(-2, 3)
    assert seen == {(y, x) for y in around for x in around if abs(y + x) % 2 == 1}


def test_the_two_colours_of_a_checkerboard_alternate() -> None:
    expected = [[False, True, False], [True, False, True]]
    assert checkerboard(torch.zeros(1, 1, 2, 3)).tolist() == expected


def _means(codec: Any, features: list[Tensor], y_hat: list[Tensor]) -> list[Tensor]:
    """Return the mean of every slice where the quantised slices come out as ``y_hat``."""
    means: list[Tensor] = []

    def code(places: Channels, mean: Tensor, scale: Tensor) -> Tensor:
        means.append(mean)
        return places.masked(places.of(torch.cat(y_hat, 1)))

    with torch.no_grad():
        codec.entropy_model(features, Coder(code))
    return means


@pytest.mark.parametrize("support", [0, 1, 2, 9])
@pytest.mark.parametrize("lrp", ["none", "after-attention"])
def test_a_slice_depends_on_as_many_of_the_first_slices_as_the_support_says(
    support: int, lrp: str
) -> None:
    changes = {"entropy_model.support": support, "entropy_model.lrp": lrp, "?_?.depth": 0}
    codec = tcm_lab.build("tcm-nano", changes).eval()
    features = [torch.randn(1, 64, 3, 5) for _ in range(2)]
    y_hat = [torch.randn(1, 16, 3, 5) for _ in range(4)]
    before = _means(codec, features, y_hat)
    for changed in range(4):
        other = [y + 5 * (i == changed) for i, y in enumerate(y_hat)]
        after = _means(codec, features, other)
        depends = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert depends == [changed < min(i, support) for i in range(4)]


@pytest.mark.parametrize("paths", ["apart", "shared"])
def test_an_untrained_codec_expects_means_about_0_and_scales_about_a_half(paths: str) -> None:
    codec = tcm_lab.build("tcm-nano", {"entropy_model.paths": paths, "?_?.depth": 0}).eval()
    found: list[tuple[float, float]] = []

    def code(places: Channels, mean: Tensor, scale: Tensor) -> Tensor:
        found.append((float(mean.mean()), float(scale.mean())))
        return torch.zeros_like(mean)

    outputs = codec.config.entropy_model.hyper_outputs(64)
    features = [torch.zeros(1, channels, 3, 5) for channels in outputs.values()]
    with torch.no_grad():
        codec.entropy_model(features, Coder(code))
    assert len(found) == 4
    for mean, scale in found:
        assert abs(mean) < 0.15
        assert abs(scale - 0.5) < 0.15


def test_the_second_pass_of_a_checkerboard_depends_on_the_first_and_not_the_reverse() -> None:
    changes = {
        "entropy_model.slices": 1,
        "entropy_model.checkerboard": True,
        "entropy_model.lrp": "none",
        "?_?.depth": 0,
    }
    codec = tcm_lab.build("tcm-nano", changes).eval()
    features = [torch.randn(1, 64, 4, 6) for _ in range(2)]
    first = checkerboard(features[0])
    y_hat = torch.randn(1, 64, 4, 6)
    anchors, others = _means(codec, features, [y_hat])
    anchors_after, others_after = _means(codec, features, [y_hat + 5 * first])
    assert torch.equal(anchors, anchors_after)
    assert (others != others_after)[..., ~first].float().mean() > 0.9
    for mean, after in zip(
        (anchors, others), _means(codec, features, [y_hat + 5 * ~first]), strict=True
    ):
        assert torch.equal(mean, after)

"""What is given in place of images is answered with what it is, and how to get to images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import tcm_lab
from tcm_lab.analysis import erf_maps, measure_attention, measure_latents
from tcm_lab.codec import InputError, VariantConfig, encode_image
from tcm_lab.training.objective import RateDistortionLoss

EXPECTED = r"expected RGB images \((B, )?3, H, W\), floating-point values in \[0, 1\]"
SIZE = (64, 64)


@pytest.fixture(scope="module")
def codec() -> Any:
    return tcm_lab.build("tcm-nano", {"?_?.depth": 1}).eval()


def wrong() -> dict[str, tuple[Any, str]]:
    """Return what is given as a batch, and what the message says of it."""
    x = torch.rand(1, 3, *SIZE)
    return {
        "0 to 255": (x * 255, r"values from .* to 25\d.*; divide by 255"),
        "bytes": ((x * 255).byte(), r"uint8 \(1, 3, 64, 64\): bytes; give x\.float\(\) / 255"),
        "grey": (x[:, :1], r"\(1, 1, 64, 64\): grey; give x\.expand\(-1, 3, -1, -1\)"),
        "no batch": (x[0], r"\(3, 64, 64\): one image without a batch; give x\[None\]"),
        "channels last": (x.permute(0, 2, 3, 1), r"channels come last; give x\.permute\(0, 3, 1"),
        "transparent": (torch.rand(1, 4, *SIZE), "4 channels; leave out the transparency"),
        "a plane": (x[0, 0], "2 dimensions instead of 4"),
        "video": (x[None], "5 dimensions instead of 4"),
        "no image": (x[:0], "it is empty"),
        "no row": (x[:, :, :0], "it is empty"),
        "from -1 to 1": (x * 2 - 1, r"values from -0\.99.* to .*; undo the normalisation"),
        "16 bits": (x * 65535, "divide by 255, or by the value of white"),
        "normalised": ((x - 0.45) / 0.225, "undo the normalisation"),
        "not a number": (x * torch.nan, "not finite"),
        "infinite": (x / 0, "not finite"),
        "integers": ((x * 255).int(), r"int32 .*: not floating-point"),
        "truth values": (x > 0.5, r"bool .*: not floating-point"),
        "complex": (x + 0j, "not floating-point"),
        "double": (x.double(), r"computes in torch\.float32; give x\.to\(torch\.float32\)"),
        "half": (x.half(), r"computes in torch\.float32"),
        "elsewhere": (x.to("meta"), "on meta, the codec is on cpu"),
        "an array": (np.zeros((1, 3, *SIZE), np.float32), "ndarray is not a tensor"),
        "a picture": (Image.new("RGB", SIZE), "Image is not a tensor"),
        "a list": ([[0.0]], "list is not a tensor"),
        "nothing": (None, "NoneType is not a tensor"),
    }


CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "forward": lambda codec, x: codec(x),
    "compress": lambda codec, x: codec.compress(x),
    "portable": lambda codec, x: codec.compress(x, portable=True),
    "loss": lambda codec, x: RateDistortionLoss(codec, (0.01,), "mse")(x),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("what", wrong())
def test_what_is_no_batch_of_images_is_answered_with_what_would_be(
    codec: Any, call: Callable[[Any, Any], Any], what: str
) -> None:
    x, words = wrong()[what]
    with pytest.raises(InputError, match=words) as refused:
        call(codec, x)
    message = str(refused.value)
    assert "\n" not in message
    assert "float" in message
    assert "in [0, 1]" in message


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.rand(1, 3, *SIZE), r"a batch; give x\[0\]"),
        (torch.rand(3, *SIZE) * 255, "divide by 255"),
        (torch.zeros(3, *SIZE, dtype=torch.uint8), "bytes"),
        (torch.rand(1, *SIZE), r"grey; give x\.expand\(3, -1, -1\)"),
        (torch.rand(*SIZE, 3), r"channels come last; give x\.permute\(2, 0, 1\)"),
        (torch.rand(*SIZE), "2 dimensions instead of 3"),
        (np.zeros((3, *SIZE)), "ndarray is not a tensor"),
    ],
)
def test_what_is_no_image_is_not_coded_to_a_file(codec: Any, image: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        encode_image(codec, image)


ANALYSES = {"fields": erf_maps, "latents": measure_latents, "attention": measure_attention}


@pytest.mark.parametrize("analyse", ANALYSES.values(), ids=ANALYSES)
@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.rand(3, 128, 128) * 255, "divide by 255"),
        (torch.rand(1, 128, 128), "grey"),
        (torch.rand(128, 128, 3), "channels come last"),
        (torch.rand(1, 3, 128, 128), "a batch"),
        (np.zeros((3, 128, 128), np.uint8), "ndarray is not a tensor"),
    ],
)
def test_what_is_no_image_is_not_analysed(
    codec: Any, analyse: Callable[..., Any], image: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        analyse(codec, [image])


@pytest.mark.parametrize(
    "x",
    [
        torch.rand(2, 3, 1, 1),
        torch.rand(1, 3, 30, 50) * 1.2 - 0.1,  # as a resized image overshoots
        torch.zeros(1, 3, 30, 50),
        torch.ones(1, 3, 30, 50),
        torch.rand(1, 30, 50, 3).permute(0, 3, 1, 2),
        torch.nn.Parameter(torch.rand(1, 3, 30, 50)),
    ],
)
def test_images_are_taken_as_they_are(codec: Any, x: Tensor) -> None:
    before = x.detach().clone()
    assert codec(x)["x_hat"].shape == x.shape
    assert torch.equal(x, before)


def test_a_codec_in_another_type_takes_images_of_that_type() -> None:
    double = tcm_lab.build("tcm-nano", {"?_?.depth": 1}).double().eval()
    assert double(torch.rand(1, 3, 30, 30, dtype=torch.float64))["x_hat"].dtype == torch.float64
    with pytest.raises(InputError, match=r"computes in torch\.float64"):
        double(torch.rand(1, 3, 30, 30))
    plain = tcm_lab.build("tcm-nano", {"?_?.depth": 1}).eval()
    with torch.autocast("cpu", torch.bfloat16):
        plain(torch.rand(1, 3, 30, 30))


@pytest.mark.parametrize("rate", ["1", "", [], torch.ones(0), torch.ones(1, 1), torch.ones(3), {}])
@pytest.mark.parametrize("call", [CALLS["forward"], CALLS["compress"], CALLS["portable"]])
def test_what_is_no_rate_is_answered_with_what_would_be(
    rate: Any, call: Callable[[Any, Any], Any]
) -> None:
    codec = tcm_lab.build("tcm-nano", {"?_?.depth": 1, "rate_levels": 4}).eval()
    given = Rated(codec, rate)
    with pytest.raises(InputError, match=r"rate.*give (a|one) number between 0 and 3"):
        call(given, torch.rand(2, 3, *SIZE))


class Rated:
    """A codec that is called with a rate."""

    def __init__(self, codec: Any, rate: Any) -> None:
        self._codec, self._rate = codec, rate

    def __call__(self, x: Tensor) -> Any:
        return self._codec(x, self._rate)

    def compress(self, x: Tensor, **options: Any) -> Any:
        return self._codec.compress(x, self._rate, **options)


def test_one_rate_in_any_form_codes_the_same() -> None:
    codec, x = (
        tcm_lab.build("tcm-nano", {"?_?.depth": 1, "rate_levels": 4}).eval(),
        torch.rand(2, 3, 9, 9),
    )
    expected = codec.compress(x, 1.5)
    for rate in ([1.5], torch.tensor(1.5), torch.tensor([1.5]), np.float32(1.5)):
        assert codec.compress(x, rate) == expected
    with pytest.raises(InputError, match="at one rate; give a single value"):
        codec.compress(x, [0.0, 1.0])


@pytest.fixture(scope="module")
def coded(codec: Any) -> dict[str, Any]:
    result: dict[str, Any] = codec.compress(torch.rand(2, 3, 60, 100))
    return result


SIDES = r"give \(height, width\), two positive integers"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        *(
            (field, value, rf"{field} = .*: {SIDES}")
            for field in ("shape", "size")
            for value in ((-1, 2), (0, 2), (1, 2, 3), (1.0, 2.0), (1,), "12", 3, (None, 2))
        ),
        ("shape", None, SIDES),
        ("shape", (2, 2), r"size = \(60, 100\): an image of that size has no z of shape \(2, 2\)"),
        ("size", (64, 64), r"size = \(64, 64\): an image of that size has no z"),
        ("size", (65, 100), r"size = \(65, 100\): an image of that size has no z"),
    ],
)
def test_sizes_that_no_stream_has_are_refused(
    codec: Any, coded: dict[str, Any], field: str, value: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        codec.decompress(**{**coded, field: value})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y, z: [y], "strings = .*: give a list of bytes for y and one for z"),
        (lambda y, z: [y, z, y, z], "give a list of bytes for y and one for z"),
        (lambda y, z: [], "give a list of bytes for y and one for z"),
        (lambda y, z: None, "strings = None: give a list of bytes"),
        (lambda y, z: [y[0], z[0]], "give a list of bytes"),
        (lambda y, z: [y, ["z", "z"]], "give a list of bytes"),
        (lambda y, z: [y, z[:1]], "for different numbers of images: 2 of y but 1 of z"),
        (lambda y, z: [y, z, []], "2 of y but 2 of z but 0 of decisions"),
        (lambda y, z: [[], []], "strings: for no image"),
    ],
)
def test_what_are_no_streams_is_refused(
    codec: Any, coded: dict[str, Any], change: Callable[[Any, Any], Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        codec.decompress(**{**coded, "strings": change(*coded["strings"])})


@pytest.mark.parametrize("size", [None, (8, 16)])
def test_a_z_that_no_image_has_is_named(size: tuple[int, int] | None) -> None:
    last = {"stages": [{"resample": "conv"}]}
    codec = tcm_lab.build(
        VariantConfig.parse(
            {
                "name": "cells",
                "latent_channels": 8,
                "hyper_channels": 4,
                **dict.fromkeys(("g_a", "g_s", "h_a", "h_s"), last),
                "entropy_model": {"type": "hierarchical", "head_dim": 8},
            }
        )
    )
    coded = codec.eval().compress(torch.rand(1, 3, 8, 16))
    assert coded["shape"] == (2, 4)  # whole cells of four by four, of half as many in z
    words = (
        r"shape = \(1, 4\): no image has such a z, since cells pads images to multiples of 8 and "
        r"so z to multiples of 2; give the shape as compress returned it"
    )
    with pytest.raises(InputError, match=words):
        codec.decompress(coded["strings"], (1, 4), size)

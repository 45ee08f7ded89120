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
from tcm_lab.codec import InputError, encode_image
from tcm_lab.training.objective import RateDistortionLoss

EXPECTED = r"expected are RGB images \((B, )?3, H, W\), floating-point values in \[0, 1\]"
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
        "16 bits": (x * 65535, "divide by 255, or by what white is"),
        "normalised": ((x - 0.45) / 0.225, "undo the normalisation"),
        "not a number": (x * torch.nan, "not finite"),
        "infinite": (x / 0, "not finite"),
        "integers": ((x * 255).int(), r"int32 .*: not floating-point"),
        "truth values": (x > 0.5, r"bool .*: not floating-point"),
        "complex": (x + 0j, "not floating-point"),
        "double": (x.double(), r"computes in torch\.float32; give x\.to\(torch\.float32\)"),
        "half": (x.half(), r"computes in torch\.float32"),
        "elsewhere": (x.to("meta"), "on meta, the codec is on cpu"),
        "an array": (np.zeros((1, 3, *SIZE), np.float32), "ndarray is no tensor"),
        "a picture": (Image.new("RGB", SIZE), "Image is no tensor"),
        "a list": ([[0.0]], "list is no tensor"),
        "nothing": (None, "NoneType is no tensor"),
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
        (np.zeros((3, *SIZE)), "ndarray is no tensor"),
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
        (np.zeros((3, 128, 128), np.uint8), "ndarray is no tensor"),
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

"""DCAE against its authors' code: names, numbers, bytes, costs; and its dictionary in TCM."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from golden import (
    assert_same,
    assert_same_in_double,
    forward,
    kodak_crop,
    published_results,
    published_shapes,
    weights_by_name,
)
from torch import Tensor

import tcm_lab
from tcm_lab.codec import Codec, export_state
from tcm_lab.complexity import measure_complexity
from tcm_lab.errors import ConfigError, LabError

#: GMAC of the parts of a forward pass at 512x768, measured on the authors' code.
GMACS = {
    "g_a": 124.84,
    "h_a": 1.03,
    "h_s": 2.06,
    "dictionary": 66.86,
    "slice_heads": 38.79,
    "lrp": 20.38,
    "g_s": 124.84,
}


@pytest.fixture(scope="module")
def codec() -> Codec:
    return tcm_lab.load_checkpoint(weights_by_name(published_shapes("dcae")))


def _forward(codec: Codec, image: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return every tensor of a forward pass that the published code reported, and likelihoods."""
    slices = codec.context_model.slices
    outputs = [(f"dict_{i}", slices[i].dictionary, 4, 1) for i in (0, 4)]
    for name in ("g_a", "g_s"):
        for i, stage in enumerate(getattr(codec, name).stages[:3]):
            outputs.append((f"{name}_{2 * i}", stage.resample, 8, 4))
            outputs.append((f"{name}_{2 * i + 1}", stage.blocks, 8, 4))
    return forward(codec, image, ("latent_scales", "latent_means"), outputs)


def test_it_computes_and_codes_what_the_published_code_does(codec: Codec) -> None:
    expected, image = published_results("dcae"), kodak_crop()
    seen, likelihoods = _forward(codec, image)
    names = {name.removesuffix(".values") for name in expected if name.endswith(".values")}
    assert names == set(seen)
    for name in names:
        assert_same(seen[name], expected, name, tolerance=1e-5)
    of_slices = [-part.log2().sum(dtype=torch.float64) for part in likelihoods["y"].split(64, 1)]
    assert np.allclose(of_slices, expected["bits_y_slice"], rtol=1e-6)
    bits_z = -likelihoods["z"].log2().sum(dtype=torch.float64)
    assert bits_z == pytest.approx(float(expected["bits_z"]), rel=1e-6)
    strings = codec.compress(image)["strings"]
    for name, (string,) in zip("yz", strings, strict=True):
        assert len(string) == expected[f"{name}_bytes"]
        assert zlib.crc32(string) == expected[f"{name}_crc32"]


def test_it_computes_the_same_to_nine_digits_in_double_precision(codec: Codec) -> None:
    assert_same_in_double(codec, "dcae")


def test_the_published_entries_are_ours_one_to_one(codec: Codec) -> None:
    exported = export_state(codec, "dcae")
    shapes = {name: tuple(value.shape) for name, value in exported.items()}
    assert shapes == published_shapes("dcae")
    preset = tcm_lab.load_config("dcae").override({"entropy_model.scale_table": "compressai"})
    assert codec.config == preset


def test_parameters_and_macs_are_the_published_code_s_part_by_part() -> None:
    record = measure_complexity("dcae")
    assert record.total_parameters == 119_400_351
    parts = {part: macs / 1e9 for part, macs in record.macs_by_part().items() if macs}
    assert parts == pytest.approx(GMACS, abs=0.006)
    assert record.total_kmacs_per_px("whole", "all") == pytest.approx(963.4, abs=0.06)


def test_an_entry_that_is_missing_or_misshapen_is_named() -> None:
    state = {name: torch.zeros(shape) for name, shape in published_shapes("dcae").items()}
    del state["dt_cross_attention.3.k.bias"]
    state["g_s.2.res1.conv2.bias"] = torch.zeros(7)
    with pytest.raises(
        LabError, match=r"1 missing \(dt_cross_attention\.3\.k\.bias\).*g_s\.2\.res1"
    ):
        tcm_lab.load_checkpoint(state)
    del state["entropy_bottleneck.quantiles"]
    with pytest.raises(LabError, match=r"DCAE authors.*quantiles.* is missing"):
        tcm_lab.load_checkpoint(state)


@torch.no_grad()
def test_its_dictionary_swaps_into_tcm() -> None:
    small = {"slices": 4, "hidden": [8], "entries": 16, "width": 32, "head_dim": 8, "layers": 2}
    changes = {"?_?.depth": 1, "entropy_model": {"type": "dictionary", **small}}
    codec = tcm_lab.build("tcm-nano", changes).eval()
    for batch, size in ((1, (1, 1)), (3, (65, 129))):
        x = torch.rand(batch, 3, *size)
        decoded = codec.decompress(**codec.compress(x))["x_hat"]
        torch.testing.assert_close(decoded, codec(x)["x_hat"].clamp(0, 1), rtol=0, atol=1e-4)
    codec.decompress(**codec.compress(x, portable=True))  # the checksum is compared
    formula, counted = (
        measure_complexity(codec, (70, 130), counter=counter) for counter in ("formula", "torch")
    )
    ours, torchs = (
        {k: v for k, v in each.macs_by_part().items() if v} for each in (formula, counted)
    )
    assert ours == torchs
    assert formula.total_parameters == counted.total_parameters


def test_what_a_dictionary_cannot_have_is_refused() -> None:
    base = tcm_lab.load_config("dcae-nano")
    with pytest.raises(ConfigError, match=r"entropy_model\.slices = 3 does not divide.*nearest"):
        base.override({"entropy_model.slices": 3})
    with pytest.raises(ConfigError, match=r"entropy_model\.width = 60: head_dim = 16 does not"):
        base.override({"entropy_model.width": 60})


def test_the_defaults_of_its_entropy_model_are_the_published_options() -> None:
    published = tcm_lab.load_config("dcae")
    defaults = published.override({"entropy_model": {"type": "dictionary", "slices": 5}})
    assert defaults.entropy_model == published.entropy_model

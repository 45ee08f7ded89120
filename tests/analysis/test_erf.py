import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torch import Tensor, nn

import tcm_lab
from tcm_lab.analysis import (
    ErfMap,
    ErfMethod,
    ErfOptions,
    decoder_erf_maps,
    effective_receptive_field,
    entropy_model_erf_maps,
    erf_maps,
    mean_erf,
    measure_erf,
)
from tcm_lab.blocks import WindowAttention
from tcm_lab.data import open_images
from tcm_lab.errors import LabError
from tcm_lab.reporting import erf_table, render


def stack(*kernels: np.ndarray, stride: int = 1, padding: int = 1) -> nn.Sequential:
    layers = []
    for kernel in kernels:
        conv = nn.Conv2d(1, 1, kernel.shape[0], stride=stride, padding=padding)
        conv.weight.data[:] = torch.from_numpy(kernel)
        layers.append(conv)
    return nn.Sequential(*layers)


def attention(*layers: WindowAttention) -> nn.Module:
    class Alternating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(layers)

        def forward(self, x: Tensor) -> Tensor:
            x = x.permute(0, 2, 3, 1)
            for layer in self.layers:
                x = x + layer(x)
            return x.permute(0, 3, 1, 2)

    return Alternating()


@pytest.fixture
def small() -> nn.Module:
    """Three strides' worth of nonlinear convolutions with 24 channels at the end."""
    return nn.Sequential(
        nn.Conv2d(3, 12, 5, 2, 2), nn.GELU(), nn.Conv2d(12, 24, 3, 2, 1), nn.GELU()
    )


@pytest.mark.parametrize(
    ("method", "energy"), [("frobenius", np.square), ("sum", np.abs), ("single-channel", np.abs)]
)
def test_a_stack_of_linear_convolutions_gives_the_discrete_kernel_of_their_product(
    method: ErfMethod, energy: Callable[[np.ndarray], np.ndarray]
) -> None:
    rng = np.random.default_rng(0)
    kernels = [rng.standard_normal((3, 3)) for _ in range(3)]
    found = effective_receptive_field(stack(*kernels), torch.rand(2, 1, 15, 15), method=method)
    # out[i] = Σ k[d]·x[i + d]: offsets add up, so kernels convolve and are not flipped.
    product = convolve2d(convolve2d(kernels[0], kernels[1]), kernels[2])
    expected = np.zeros((15, 15))
    expected[4:11, 4:11] = energy(product)
    np.testing.assert_allclose(found.scores, expected / expected.sum(), atol=1e-6)
    assert found.centre == found.position == (7, 7)
    np.testing.assert_array_equal(found.convolutions, expected > 0)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "first", "middle"),
    [(3, 2, 1, -1, 0.0), (5, 4, 2, -2, 0.0), (4, 2, 1, -1, 0.5), (2, 2, 0, 0, 0.5)],
)
def test_a_strided_convolution_has_the_right_centre(
    kernel: int, stride: int, padding: int, first: int, middle: float
) -> None:
    weights = np.random.default_rng(1).uniform(1, 2, (kernel, kernel))
    model = stack(weights, stride=stride, padding=padding)
    found = effective_receptive_field(model, torch.rand(1, 1, 24, 24))
    at = stride * found.position[0]
    assert found.centre == (at + middle, at + middle)
    rows, columns = np.nonzero(found.scores)
    assert (rows.min(), rows.max()) == (at + first, at + first + kernel - 1)
    assert (columns.min(), columns.max()) == (at + first, at + first + kernel - 1)


def test_one_window_attention_sees_exactly_its_window() -> None:
    model = attention(WindowAttention(8, 4, 4, shifted=False))
    found = effective_receptive_field(model, torch.rand(1, 8, 16, 16), at=(5, 10), probes=None)
    expected = np.zeros((16, 16), dtype=bool)
    expected[4:8, 8:12] = True
    np.testing.assert_array_equal(found.scores > 0, expected)
    assert found.convolutions.sum() == 1
    assert [(grid.window_size, grid.offset, grid.pitch) for grid in found.grids] == [(4, 0, 1)]


def test_alternating_windows_see_the_plain_windows_that_the_shifted_one_touches() -> None:
    model = attention(*(WindowAttention(8, 4, 4, shifted=s) for s in (False, True)))
    images = torch.rand(1, 8, 16, 16)
    found = effective_receptive_field(model, images, at=(5, 9), probes=None)
    # Rows 2 to 5 and columns 6 to 9 are its shifted window: two plain ones each way.
    expected = np.zeros((16, 16), dtype=bool)
    expected[0:8, 4:12] = True
    np.testing.assert_array_equal(found.scores > 0, expected)
    corner = effective_receptive_field(model, images, at=(0, 15), probes=None)
    expected[:] = False
    expected[0:4, 12:16] = True  # rolled round, but masked
    np.testing.assert_array_equal(corner.scores > 0, expected)


def test_the_probes_estimate_lies_within_three_standard_errors_of_the_jacobian(
    small: nn.Module,
) -> None:
    images = torch.rand(2, 3, 16, 16)
    exact = effective_receptive_field(small, images, probes=None)
    assert exact.probes == 0
    assert not exact.standard_error.any()
    x = images[:1].clone().requires_grad_()
    jacobian = torch.autograd.functional.jacobian(lambda x: small(x)[0, :, 2, 2], x)
    first = erf_maps(small, images, ErfOptions(probes=None))[0]
    energy = jacobian.square().sum((0, 1, 2)).numpy()
    np.testing.assert_allclose(first.scores, energy / energy.sum(), atol=1e-6)
    estimated = effective_receptive_field(small, images, probes=20, seed=3)
    assert estimated.probes == 20
    seen = exact.scores > 0
    np.testing.assert_array_equal(estimated.scores[~seen], 0)
    off = (estimated.scores - exact.scores)[seen] / estimated.standard_error[seen]
    assert (np.abs(off) < 3).mean() > 0.97
    assert 0.7 < np.sqrt(np.mean(off**2)) < 1.4


def test_fields_do_not_change_when_the_latent_is_scaled(small: nn.Module) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small

        def forward(self, x: Tensor) -> Tensor:
            return -1000 * self.inner(x)

    images = torch.rand(2, 3, 16, 16)
    for method in ("frobenius", "sum", "single-channel"):
        plain, scaled = (
            effective_receptive_field(model, images, method=method, probes=4, seed=1)
            for model in (small, Scaled())
        )
        np.testing.assert_allclose(plain.scores, scaled.scores, rtol=1e-4, atol=1e-9)


def test_each_image_has_the_same_weight(small: nn.Module) -> None:
    images = torch.rand(3, 3, 16, 16)
    maps = erf_maps(small, images, ErfOptions(probes=None))
    mean = mean_erf(maps)
    assert mean.images == ("0", "1", "2")
    np.testing.assert_allclose(
        mean.scores, np.mean([m.scores for m in maps], axis=0), rtol=1e-5, atol=1e-9
    )
    for field in (*maps, mean):
        assert math.isclose(field.scores.sum(), 1, rel_tol=1e-5)


def test_the_same_seed_draws_the_same_probes_and_a_map_reads_back(small: nn.Module) -> None:
    images = torch.rand(2, 3, 16, 16)
    first, again, other = (
        effective_receptive_field(small, images, probes=3, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    read = ErfMap.model_validate_json(first.model_dump_json())
    assert read == first
    assert not read.scores.flags.writeable


def test_a_convolutional_codec_sees_nothing_beyond_its_convolutions_and_tcm_does() -> None:
    images = torch.rand(1, 3, 256, 256)
    widths = {}
    for name in ("tcm-nano-conv-only", "tcm-nano-transformer-only"):
        found = effective_receptive_field(
            tcm_lab.build(name, {"shortcut": "none"}), images, probes=2
        )
        assert found.position == (8, 8)
        assert found.centre == (128, 128)
        widths[name] = (found.scores * found.convolutions).sum()
        # From layer to layer: each 3x3 adds its stride so far on both sides; conv-only has two
        # in each of six blocks and two in each of three strided ones, and one at the end.
        if name == "tcm-nano-conv-only":
            radius = (1 + 2) + 2 * 4 + (2 + 4) + 4 * 4 + (4 + 8) + 8 * 4 + 8
            assert found.convolutions.sum() == (2 * radius + 1) ** 2
    assert widths["tcm-nano-conv-only"] == pytest.approx(1, abs=1e-6)
    assert widths["tcm-nano-transformer-only"] < 1


def test_beside_a_linear_shortcut_the_field_is_measured_around_the_shortcuts_block() -> None:
    codec = tcm_lab.load_checkpoint("tcm-nano")
    found = erf_maps(codec, open_images(None, "eval")[:2], ErfOptions(side=256, probes=4))
    for each in found:
        # Position 8 of the shortcut's 16x16 patches begins at pixel 128.
        assert each.scores[128:144, 128:144].sum() > 0.9
        assert each.centre == pytest.approx((135.5, 135.5), abs=0.5)
        assert each.grids == ()
    measured = measure_erf(found)
    assert 16 / math.sqrt(2) <= measured.side_px[0.5].value <= 16  # a flat block's, or wider
    assert measured.anisotropy.value < 1.1


@pytest.mark.parametrize(
    ("shortcut", "layer"),
    [
        *itertools.product(
            ("patch", "staged", "wavelet"), (None, "g_a", "g_a.stages.3", "h_a.stages.0")
        ),
        ("patch", "g_a.shortcut"),
        ("staged", "g_a.shortcut"),
    ],
)
def test_a_field_says_whether_the_linear_shortcut_is_part_of_it(
    shortcut: str, layer: str | None
) -> None:
    codec: Any = tcm_lab.build("tcm-nano", {"shortcut": shortcut}).eval()
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    options = ErfOptions(layer=layer, probes=2)
    before = erf_maps(codec, image, options)
    assert before[0].shortcut == measure_erf(before).shortcut
    if layer == "g_a.shortcut":  # without its weights there is no field
        assert before[0].shortcut == shortcut
        return
    with torch.no_grad():
        for weight in codec.g_a.linear_path.parameters():
            weight.zero_()
    after = erf_maps(codec, image, options)
    changed = not np.array_equal(before[0].scores, after[0].scores)
    assert before[0].shortcut == (shortcut if changed else "none")
    text = render(erf_table({"it": measure_erf(before)}), "markdown")
    assert (
        "A linear shortcut may hold most of the energy. All fields include it." in text
    ) == changed
    assert ("name g_a's last stage" in text) == (layer is None and shortcut != "wavelet")
    assert (before[0].grids == ()) == (changed or shortcut == "staged")


@pytest.mark.parametrize(
    ("levels", "rate", "has"),
    [(4, 9, "levels 0 to 3"), (4, -1, "levels 0 to 3"), (0, 1, "no rate")],
)
def test_a_rate_that_the_codec_lacks_is_refused_though_g_a_does_not_see_it(
    levels: int, rate: float, has: str
) -> None:
    codec = tcm_lab.build("tcm-nano", {"rate_levels": levels})
    wrong = ErfOptions.model_construct(**{**dict(ErfOptions(probes=2)), "rate": rate})
    with pytest.raises(LabError, match=f"rate = {rate}: tcm-nano.* has {has}"):
        erf_maps(codec, torch.rand(1, 3, 64, 64), wrong)
    erf_maps(codec, torch.rand(1, 3, 64, 64), ErfOptions(probes=2))


def test_any_named_layer_of_a_codec_or_a_reference_model_can_be_analysed() -> None:
    images = torch.rand(1, 3, 64, 64)
    codec = tcm_lab.build("tcm-nano")
    for layer, size in {
        "g_a.stages.0": 32,
        "g_a.stages.1.blocks.1.swin.attention": 16,
        "slices.1.attention.0": 4,
    }.items():
        found = effective_receptive_field(codec, images, layer=layer, probes=2)
        assert found.position == (size // 2, size // 2)
        assert found.of == layer
    reference_model = tcm_lab.build("compressai/mbt2018-mean", {"quality": 1})
    found = effective_receptive_field(reference_model, images, probes=2)
    # Four 5x5 convolutions of stride 2: 2·(1 + 2 + 4 + 8) to each side.
    assert found.convolutions.sum() == 61**2
    assert found.centre == (32, 32)


def test_a_pixel_depends_on_the_latents_whose_kernels_reach_it() -> None:
    reference_model = tcm_lab.build("compressai/mbt2018-mean", {"quality": 1})
    found = mean_erf(decoder_erf_maps(reference_model, torch.rand(1, 3, 128, 128)))
    assert found.pitch_px == 16
    assert found.scores.shape == (8, 8)
    np.testing.assert_array_equal(found.scores > 0, found.convolutions > 0)
    # Pixel 64 = 2·32 takes the odd-sized kernel's taps 0, 2, 4: three positions, at each scale.
    rows = np.flatnonzero(found.scores.sum(1))
    assert (rows.min(), rows.max()) == (3, 5)


def test_a_slices_mean_depends_on_earlier_slices_within_its_networks_reach() -> None:
    codec = tcm_lab.build("tcm-nano-no-swatten", {"entropy_model.lrp": "none"})
    for parameter in codec.h_a.parameters():
        nn.init.zeros_(parameter)  # so that nothing passes through z
    images = torch.rand(1, 3, 256, 256)
    (found,) = entropy_model_erf_maps(codec, images, 2, ErfOptions(probes=2))
    expected = np.zeros((16, 16), dtype=bool)
    expected[5:12, 5:12] = True  # three 3x3 convolutions around (8, 8)
    np.testing.assert_array_equal(found.scores > 0, expected)
    assert found.centre == found.position == (8, 8)
    with pytest.raises(LabError, match="depend"):
        entropy_model_erf_maps(codec, images, 0, ErfOptions(probes=2))
    with pytest.raises(LabError, match="4 slices, 0 to 3"):
        entropy_model_erf_maps(codec, images, 4)


def test_a_slices_mean_is_centred_on_its_own_position_whatever_comes_through_z() -> None:
    codec = tcm_lab.build("tcm-nano-no-swatten")
    (found,) = entropy_model_erf_maps(
        codec, torch.rand(1, 3, 256, 256), 3, ErfOptions(probes=2, at=(6, 9))
    )
    assert found.centre == (6, 9)


def test_swatten_widens_what_the_mean_depends_on() -> None:
    reach = {}
    for attention in ("none", "swatten"):
        codec = tcm_lab.build(
            "tcm-nano",
            {"entropy_model.attention": attention, "entropy_model.lrp": "none"},
        )
        for parameter in codec.h_a.parameters():
            nn.init.zeros_(parameter)
        (found,) = entropy_model_erf_maps(
            codec, torch.rand(1, 3, 256, 256), 1, ErfOptions(probes=2)
        )
        reach[attention] = (found.scores > 0).sum()
        own = [grid for grid in found.grids if grid.layer.startswith("slices.1.attention.0")]
        assert [grid.offset for grid in own] == ([0, 4] if attention == "swatten" else [])
    assert reach == {"none": 49, "swatten": 256}


def test_mistakes_are_named(small: nn.Module) -> None:
    images = torch.rand(1, 3, 64, 64)
    codec = tcm_lab.build("tcm-nano-conv-only")
    for wrong, said in (
        ({"layer": "g_a.stage.0"}, "Did you mean"),
        ({"at": (4, 0)}, "outside y's map of 4x4"),
        ({"method": "l1"}, "'frobenius', 'sum' or 'single-channel'"),
        ({"method": "single-channel", "channel": 64}, "channels 0 to 63"),
        ({"probes": 1}, "probes = 1: must be at least 2"),
        ({"layer": "g_a.stages.0.blocks.0.conv.block", "side": 8}, "at least 16x16"),
    ):
        with pytest.raises(LabError, match=said):
            effective_receptive_field(codec, images, **wrong)
    with pytest.raises(LabError, match="no images to analyse"):
        effective_receptive_field(codec, [])
    with pytest.raises(LabError, match="unknown field 'probe'"):
        effective_receptive_field(codec, images, probe=4)
    with pytest.raises(LabError, match="layer = 'g_a': only erf_maps"):
        decoder_erf_maps(codec, images, ErfOptions(layer="g_a"))
    with pytest.raises(LabError, match="different position"):
        mean_erf(
            [
                *erf_maps(small, images, ErfOptions(probes=2)),
                *erf_maps(small, images, ErfOptions(probes=2, at=(0, 0))),
            ]
        )


def test_the_model_is_left_as_it_was(small: nn.Module) -> None:
    small.train()
    before = {name: value.clone() for name, value in small.state_dict().items()}
    effective_receptive_field(small, torch.rand(1, 3, 16, 16), probes=2)
    assert small.training
    assert all(torch.equal(before[name], value) for name, value in small.state_dict().items())
    assert all(parameter.grad is None for parameter in small.parameters())


def test_a_layer_that_rounding_cuts_off_is_refused_without_a_warning() -> None:
    codec = tcm_lab.build("compressai/bmshj2018-hyperprior").eval()
    with pytest.raises(LabError, match="depends on nothing"):
        erf_maps(codec, torch.rand(1, 3, 64, 64), ErfOptions(probes=2, layer="g_s"))


@pytest.mark.parametrize("shortcut", ["none", "wavelet"])
def test_nothing_but_attention_sees_beyond_the_convolutions(shortcut: str) -> None:
    codec = tcm_lab.build("tcm-nano-conv-only", {"shortcut": shortcut})
    images, options = torch.rand(1, 3, 128, 128), ErfOptions(probes=2)
    fields = (
        effective_receptive_field(codec, images, layer="g_a.stages.0", probes=2),
        mean_erf(decoder_erf_maps(codec, images, options)),
    )
    for field in fields:
        assert measure_erf(field).within_convolutions.value == pytest.approx(1)


@pytest.mark.parametrize("size", [(64, 64), (64, 128), (64, 72)])
@pytest.mark.parametrize("channels", [8, 16, 32])
def test_channels_are_found_wherever_a_layer_has_them(size: tuple[int, int], channels: int) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, channels, 4, 4)
            self.swapped = nn.Sequential(nn.Linear(channels, channels), nn.GELU())
            self.nothing = nn.Sequential()

        def forward(self, x: Tensor) -> Tensor:
            x = self.swapped(self.first(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            out: Tensor = self.nothing(x)
            return out

    model, images = Tokens(), torch.rand(1, 3, *size)
    for layer in ("first", "swapped", "swapped.0", "swapped.1", "nothing"):
        field = effective_receptive_field(model, images, layer=layer, probes=2)
        assert field.position == (size[0] // 8, size[1] // 8)
        rows, columns = np.nonzero(field.scores)
        assert (np.ptp(rows), np.ptp(columns)) == (3, 3)


def test_a_layer_without_rows_and_columns_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(2))
    with pytest.raises(LabError, match=r"'1' returns \(1, 4, 2, 2\).*rows and columns"):
        effective_receptive_field(model, torch.rand(1, 3, 32, 64), layer="1", probes=2)


def test_a_foreign_decoders_field_is_measured_in_its_own_latents() -> None:
    class Foreign(nn.Module):
        downsampling_factor = 8

        def __init__(self) -> None:
            super().__init__()
            self.g_a, self.g_s = nn.Conv2d(3, 4, 8, 8), nn.ConvTranspose2d(4, 3, 8, 8)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"x_hat": self.g_s(self.g_a(x))}

    (field,) = decoder_erf_maps(Foreign(), torch.rand(1, 3, 32, 64), ErfOptions(probes=2))
    assert (field.shape, field.pitch_px) == ((4, 8), 8)

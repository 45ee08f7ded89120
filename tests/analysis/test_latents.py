import dataclasses
import math
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

import tcm_lab
from tcm_lab.analysis import LatentRecord, latent_maps, measure_latents
from tcm_lab.analysis.latents import trace_latent
from tcm_lab.analysis.prediction_error import EDGES, REACH, ErrorStatistics
from tcm_lab.codec import Codec
from tcm_lab.data import ImageSet, open_images
from tcm_lab.errors import LabError
from tcm_lab.evaluation import evaluate
from tcm_lab.reporting.plots import prediction_plot
from tcm_lab.reporting.tables import latent_table
from tcm_lab.stats import Interval


@pytest.fixture(scope="module")
def codec() -> Codec:
    return tcm_lab.build("tcm-nano").eval()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    from PIL import Image

    folder = tmp_path_factory.mktemp("photographs")
    for name, image in zip(("a", "b"), open_images(None, "eval"), strict=False):
        pixels = image[:, 50:150, 60:190].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return open_images(folder, "eval")


def test_bits_of_slices_channels_and_positions_sum_to_what_an_evaluation_reports(
    codec: Codec, photographs: ImageSet
) -> None:
    reported = evaluate(codec, photographs).points[0].images
    calls = []
    record = measure_latents(codec, photographs, on_image=lambda *done: calls.append(done))
    assert calls == [(n, len(photographs)) for n in range(1, len(photographs) + 1)]
    assert len(record.images[0].slices) == 4
    for ours, theirs in zip(record.images, reported, strict=True):
        assert ours.name == theirs.name
        assert theirs.estimated_bits is not None
        assert ours.y_bits + ours.z_bits == pytest.approx(theirs.estimated_bits, rel=1e-5)
        assert ours.bpp * 100 * 130 == pytest.approx(theirs.estimated_bits, rel=1e-5)
    mean = np.mean([image.y_bits / image.pixels for image in record.images])
    assert record.channel_bits.sum() == pytest.approx(mean, rel=1e-4)
    maps = latent_maps(codec, photographs[0])
    by_slice = [part.bits for part in record.images[0].slices]
    np.testing.assert_allclose(maps.bits.sum((1, 2)), by_slice, rtol=1e-4)


def test_the_deviation_is_between_what_is_coded_and_what_the_decoder_receives(
    codec: Codec, photographs: ImageSet
) -> None:
    x = photographs[0][None].float() / 255
    given, raw = [], []
    handles = [
        codec.g_s.register_forward_pre_hook(lambda module, args: given.append(args[0])),
        codec.g_a.register_forward_hook(lambda module, args, out: raw.append(out)),
    ]
    with torch.no_grad():
        codec(x)
    for handle in handles:
        handle.remove()
    off = (raw[0] - given[0]).abs()
    maps = latent_maps(codec, photographs[0])
    np.testing.assert_allclose(maps.deviation, off[0].mean(0), atol=1e-5)
    np.testing.assert_allclose(
        maps.scaled_deviation, (off[0].mean(0) / raw[0].abs().mean()), rtol=1e-3
    )
    image = measure_latents(codec, photographs).images[0]
    assert image.deviation == pytest.approx(float(off.mean()), rel=1e-4)
    assert image.deviation == pytest.approx(maps.deviation.mean(), rel=1e-4)
    assert image.scaled_deviation == pytest.approx(
        float(off.mean() / raw[0].abs().mean()), rel=1e-4
    )
    assert image.slices[1].deviation == pytest.approx(float(off[:, 16:32].mean()), rel=1e-4)


def test_values_far_apart_are_quantised_with_the_known_error() -> None:
    codec = tcm_lab.build("tcm-nano-conv-only").eval()
    with torch.no_grad():
        for parameter in codec.g_a.stages[-1].parameters():
            parameter.mul_(300)
    record = measure_latents(codec, torch.rand(2, 3, 128, 128))
    assert record.interval("coded_squared_error").value == pytest.approx(1 / 12, rel=0.05)
    assert record.interval("coded_deviation").value == pytest.approx(1 / 4, rel=0.05)


def test_lrp_changes_the_deviation_by_at_most_a_half_and_not_at_all_where_there_is_none(
    codec: Codec, photographs: ImageSet
) -> None:
    x = photographs[0][None].float() / 255
    trace = trace_latent(codec, x)
    moved = (trace.y_hat - trace.coded).abs()
    assert 0 < float(moved.max()) <= 0.5
    bare = tcm_lab.build("tcm-nano", {"entropy_model.lrp": "none"})
    image = measure_latents(bare, photographs).images[0]
    assert image.deviation == image.coded_deviation
    assert image.squared_error == image.coded_squared_error


def test_a_rate_level_and_a_compressai_model_are_traced_too(photographs: ImageSet) -> None:
    conditioned = tcm_lab.build("tcm-nano-conv-only", {"rate_levels": 3})
    low, high = (
        measure_latents(conditioned, photographs, rate=rate).interval("bpp").value
        for rate in (0.0, 2.0)
    )
    assert low < high
    reference_model = tcm_lab.build("compressai/mbt2018-mean", {"quality": 1}).eval()
    x = torch.rand(1, 3, 64, 128)
    record = measure_latents(reference_model, x)
    with torch.no_grad():
        bits = sum(float(-part.log2().sum()) for part in reference_model(x)["likelihoods"].values())
    assert record.images[0].bpp == pytest.approx(bits / (64 * 128), rel=1e-4)
    assert record.images[0].deviation == record.images[0].coded_deviation
    odd = torch.rand(1, 3, 50, 90)  # padded to 64x128 by its last row and column, as evaluated
    padded = torch.nn.functional.pad(odd, (0, 38, 0, 14), mode="replicate")
    with torch.no_grad():
        likelihoods = reference_model(padded)["likelihoods"].values()
    bits = sum(float(-part.log2().sum()) for part in likelihoods)
    assert measure_latents(reference_model, odd).images[0].bpp == pytest.approx(
        bits / (50 * 90), rel=1e-4
    )
    with pytest.raises(LabError, match="no Gaussian conditional"):
        measure_latents(tcm_lab.build("compressai/bmshj2018-factorized", {"quality": 1}), x)
    with pytest.raises(LabError, match="MeanScaleHyperprior has no rate levels"):
        measure_latents(reference_model, odd, rate=1)
    with pytest.raises(LabError, match="predicts no means"):
        measure_latents(tcm_lab.build("compressai/bmshj2018-hyperprior", {"quality": 1}), x)


def test_independent_normal_errors_have_unit_deviation_and_no_correlation() -> None:
    torch.manual_seed(1)
    statistics = reduce(
        add,
        (ErrorStatistics.of(torch.randn(1, 40, *size)) for size in ((64, 64), (32, 48))),
    )
    assert statistics.count == 40 * (64 * 64 + 32 * 48)
    assert statistics.mean == pytest.approx(0, abs=0.01)
    assert statistics.deviation == pytest.approx(1, abs=0.01)
    assert sum(statistics.histogram) == statistics.count
    middle = EDGES.index(0)
    within_one = sum(statistics.histogram[middle - 4 : middle + 4]) / statistics.count
    assert within_one == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.005)
    others = statistics.correlation.copy()
    assert others[REACH, REACH] == pytest.approx(1)
    others[REACH, REACH] = 0
    assert np.abs(others).max() < 0.02


def test_the_correlation_of_a_first_order_field_falls_geometrically() -> None:
    # A separable autoregressive field of unit variance: correlation ρ^(|Δy| + |Δx|).
    torch.manual_seed(2)
    rho, e = 0.6, torch.randn(1, 20, 96, 96, dtype=torch.float64)
    for axis in (2, 3):
        rows = list(e.unbind(axis))
        for i in range(1, len(rows)):
            rows[i] = rho * rows[i - 1] + math.sqrt(1 - rho**2) * rows[i]
        e = torch.stack(rows, axis)
    found = ErrorStatistics.of(e)
    assert found.neighbour_correlation == pytest.approx(rho, abs=0.03)
    for dy, dx in ((0, 2), (1, 1), (-2, 1), (3, -3)):
        assert found.correlation[REACH + dy, REACH + dx] == pytest.approx(
            rho ** (abs(dy) + abs(dx)), abs=0.04
        )


def test_energy_is_each_channels_variance_over_all_images(codec: Codec) -> None:
    images = [torch.rand(3, 64, 64), torch.rand(3, 128, 64)]
    record = measure_latents(codec, images)
    with torch.no_grad():
        y = torch.cat([codec.g_a(image[None])[0].flatten(1) for image in images], 1)
    expected = y.double().var(1, correction=0)
    np.testing.assert_allclose(record.channel_energy, expected, rtol=1e-4)


def test_compaction_is_that_of_the_energies(codec: Codec, photographs: ImageSet) -> None:
    record = measure_latents(codec, photographs)
    energy = np.array([100.0] * 4 + [1.0] * 60)
    known = record.model_copy(update={"channel_energy": energy.astype(np.float32)})
    assert known.channels_holding(400 / 460) == 4
    assert known.channels_holding(0.5) == 3
    expected = 10 * (np.log10(460 / 64) - 4 * 2 / 64)
    assert known.coding_gain_db == pytest.approx(expected)
    assert LatentRecord.model_validate_json(record.model_dump_json()) == record


def test_a_latent_that_is_zero_everywhere_is_measured_and_drawn() -> None:
    codec = tcm_lab.build("tcm-nano", {"?_?.depth": 0, "shortcut": "none"}).eval()
    for parameter in codec.g_a.parameters():
        torch.nn.init.zeros_(parameter)
    images = torch.rand(2, 3, 64, 64)
    record = measure_latents(codec, images)
    assert record.channels_holding(0.9) == 1
    assert all(image.magnitude == 0 for image in record.images)
    (row,) = latent_table({"zero": record}).rows
    assert row.values["scaled_deviation"] is None
    assert isinstance(row.values["deviation"], Interval)
    maps = latent_maps(codec, images[0])
    assert np.isfinite(maps.scaled_deviation).all()


@pytest.mark.parametrize(
    ("model", "density"),
    [("tcm-nano", scipy.stats.norm()), ("hpcm-nano", scipy.stats.gennorm(1.5))],
)
def test_errors_drawn_as_the_coder_assumes_have_unit_deviation(model: str, density: Any) -> None:
    codec, image = tcm_lab.build(model).eval(), torch.rand(1, 3, 128, 128)
    trace = trace_latent(codec, image)
    drawn = torch.from_numpy(density.rvs(trace.y.shape, random_state=0))
    exact = dataclasses.replace(trace, y=trace.means + trace.scales * drawn)
    assert ErrorStatistics.of(exact.error).deviation == pytest.approx(1, abs=0.04)
    assumed = prediction_plot({model: measure_latents(codec, image)}).axes[0].lines[0]
    expected = density.pdf(np.asarray(assumed.get_xdata()) * density.std()) * density.std()
    np.testing.assert_allclose(assumed.get_ydata(), expected, rtol=1e-6)

"""Image metrics against their definitions and independent implementations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torch.nn.functional import conv2d

from tcm_lab._compat.torchvision import make_torchvision_importable
from tcm_lab.data import open_images
from tcm_lab.errors import LabError
from tcm_lab.evaluation import evaluate_anchor, quality
from tcm_lab.evaluation.measure import to_bytes
from tcm_lab.evaluation.quality import check_requested, ms_ssim, psnr_db, psnr_yuv_db, ssim
from tcm_lab.metrics import METRICS
from tcm_lab.reporting import rd_table, series_of_records


def test_psnr_is_the_mean_squared_error_under_the_peak() -> None:
    x = torch.full((1, 3, 8, 8), 100.0)
    assert psnr_db(x, x) == 100  # infinity
    assert psnr_db(x, x + 1) == pytest.approx(20 * math.log10(255), abs=1e-12)
    half = x.clone()
    half[..., :4] += 10  # a mean squared error of 50
    assert psnr_db(x, half) == pytest.approx(10 * math.log10(255**2 / 50), abs=1e-12)


def test_a_file_keeps_the_nearest_of_256_levels() -> None:
    levels = to_bytes(torch.tensor([-1.0, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 2.0]))
    assert levels.tolist() == [0, 0, 0, 1, 255, 255]


def test_ms_ssim_needs_five_scales_of_its_window() -> None:
    x = 255 * torch.rand(1, 3, 161, 161)
    assert ms_ssim(x, x) == pytest.approx(1, abs=1e-6)
    assert ms_ssim(x[..., :160], x[..., :160]) is None
    assert ms_ssim(x[..., :160, :], x[..., :160, :]) is None


def pair(height: int, width: int) -> tuple[Tensor, Tensor]:
    """An image of waves, and the same with noise, of whole numbers in [0, 255]."""
    rng = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    waves = torch.stack([rows * 5 % 256, columns * 4 % 256, (rows + columns) % 256])[None].float()
    noise = 20 * torch.randn(waves.shape, generator=rng)
    return waves, (waves + noise).round().clamp(0, 255)


def test_psnr_yuv_weighs_the_components_of_bt709_six_to_one_to_one() -> None:
    x, x_hat = pair(24, 40)
    components = []
    for image in (x, x_hat):
        red, green, blue = image[0].double().numpy()
        luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        components.append((luma, (blue - luma) / 1.8556, (red - luma) / 1.5748))
    errors = [np.mean((a - b) ** 2) for a, b in zip(*components, strict=True)]
    y, u, v = (10 * math.log10(255**2 / error) for error in errors)
    assert psnr_yuv_db(x, x_hat) == pytest.approx((6 * y + u + v) / 8, abs=1e-9)
    assert psnr_yuv_db(x, x) == 100


def test_no_psnr_is_above_that_of_equal_images(tmp_path: Path) -> None:
    x = torch.full((1, 3, 600, 600), 100.0)
    nearly = x.clone()
    nearly[0, 0, 0, 0] += 1  # one sample of a million: 108 dB, were it not for the bound
    assert psnr_db(x, nearly) == 100
    grey = pair(40, 56)[0][0, 0].byte().numpy()
    Image.fromarray(np.repeat(grey[:, :, None], 3, axis=2)).save(tmp_path / "grey.png")
    (point,) = evaluate_anchor("jpeg", open_images(tmp_path, "eval"), [50]).points
    # JPEG leaves grey grey: the chroma of both is 0, though rounding gives 1e-16 of it.
    assert point.psnr_yuv_db == pytest.approx((6 * point.psnr_db + 100 + 100) / 8, abs=1e-6)


def test_ssim_agrees_with_scikit_image() -> None:
    x, x_hat = pair(64, 48)
    a, b = (image[0].permute(1, 2, 0).numpy() for image in (x, x_hat))
    expected = structural_similarity(
        a, b, channel_axis=-1, data_range=255, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False,
    )  # fmt: skip
    assert ssim(x, x_hat) == pytest.approx(expected, abs=2e-5)
    assert ssim(x[..., :10], x_hat[..., :10]) is None


def test_the_metrics_that_are_measured_on_request_are_registered_as_such() -> None:
    requested = {name for name, metric in METRICS.items() if metric.on_request}
    assert requested == set(quality._ON_REQUEST)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of torch's checkpoints; nothing may be downloaded into it."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download was begun")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    quality._network.cache_clear()
    yield folder
    quality._network.cache_clear()


def test_weights_are_never_downloaded_and_the_message_says_where_to_put_them(hub: Path) -> None:
    images = open_images(None, "eval")[:1]
    with pytest.raises(LabError, match=r"alexnet-owt-7be5be79\.pth") as caught:
        evaluate_anchor("jpeg", images, [30], metrics=["lpips"])
    assert f"into {hub}" in str(caught.value)
    with pytest.raises(LabError, match=r"vgg16-397923af\.pth"):
        check_requested(["dists"])
    (hub / "vgg16-397923af.pth").write_bytes(b"half of it")
    with pytest.raises(LabError, match="damaged or another file"):
        check_requested(["dists"])
    with pytest.raises(LabError, match="Did you mean lpips"):
        check_requested(["lpip"])


def test_without_torchmetrics_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    quality._network.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LabError, match=r"tcm-lab\[perceptual\]"):
        check_requested(["lpips"])


def stand_in(hub: Path, name: str, network: str) -> nn.Sequential:
    """Write weights of a fixed seed in place of ImageNet's, and return the layers they are of."""
    from torchvision import models

    torch.manual_seed(0)
    with torch.device("meta"):
        whole: Any = getattr(models, network)(weights=None)
    features: nn.Sequential = whole.features.to_empty(device="cpu")
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.1)
    state = {f"features.{key}": value for key, value in features.state_dict().items()}
    for key, value in whole.classifier.state_dict().items():  # not used, and not stored either
        state[f"classifier.{key}"] = torch.zeros(1).expand(value.shape)
    torch.save(state, hub / name)
    return features.eval()


@pytest.fixture
def any_weights(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(quality, "_check_weights", lambda name, url: None)
    return hub


@pytest.fixture(scope="module")
def parts() -> Path:
    """Where torchmetrics keeps what LPIPS and DISTS themselves learned."""
    make_torchvision_importable()
    import torchmetrics

    return Path(torchmetrics.__file__).parent / "functional" / "image"


@torch.no_grad()
def test_lpips_is_the_weighted_distance_of_normalised_features(
    any_weights: Path, parts: Path
) -> None:
    """Zhang et al. 2018, equation 1, with stand-in weights below LPIPS' own linear layers."""
    layers = stand_in(any_weights, "alexnet-owt-7be5be79.pth", "alexnet")
    linear = torch.load(parts / "lpips_models" / "alex.pth", weights_only=True, map_location="cpu")
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    x, x_hat = pair(96, 80)
    seen = [(image / 127.5 - 1 - shift) / scale for image in (x, x_hat)]
    expected, tap = 0.0, 0
    for index, layer in enumerate(layers):
        seen = [layer(each.clone()) for each in seen]
        if index in (1, 4, 7, 9, 11):
            a, b = (each / (each.norm(dim=1, keepdim=True) + 1e-8) for each in seen)
            weights = linear[f"lin{tap}.model.1.weight"]
            expected += (weights * (a - b).square()).sum(1).mean().item()
            tap += 1
    assert quality.lpips(x, x_hat) == pytest.approx(expected, rel=1e-4)
    assert quality.lpips(x, x) == 0
    assert quality.lpips(x[..., :63], x_hat[..., :63]) is None


def blurred(x: Tensor) -> Tensor:
    """DISTS' pooling: the root of the Hann-weighted mean of squares, every second position."""
    hann = torch.tensor([0.5, 1, 0.5])
    window = (hann[:, None] * hann / 4).expand(x.shape[1], 1, 3, 3)
    return (conv2d(x.square(), window, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


@torch.no_grad()
def test_dists_compares_means_and_covariances_of_features(any_weights: Path, parts: Path) -> None:
    """Ding et al. 2020, equations 3 to 5, with stand-in weights below DISTS' own."""
    layers = stand_in(any_weights, "vgg16-397923af.pth", "vgg16")
    own = torch.load(parts / "dists_models" / "weights.pt", weights_only=True, map_location="cpu")
    total = own["alpha"].sum() + own["beta"].sum()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    x, x_hat = pair(64, 80)
    seen = [(image / 255 - mean) / deviation for image in (x, x_hat)]
    taps = [[image / 255 for image in (x, x_hat)]]
    for index, layer in enumerate(layers[:30]):
        pooled = isinstance(layer, nn.MaxPool2d)
        seen = [blurred(each) if pooled else layer(each.clone()) for each in seen]
        if index in (3, 8, 15, 22, 29):
            taps.append(seen)
    similarity, first = 0.0, 0
    for a, b in taps:
        channels = slice(first, first + a.shape[1])
        first = channels.stop
        alpha, beta = (own[name].flatten()[channels] / total for name in ("alpha", "beta"))
        (a, b), n = (each[0].flatten(1).double() for each in (a, b)), a[0, 0].numel()
        covariance = (a * b).sum(1) / n - a.mean(1) * b.mean(1)
        texture = (2 * a.mean(1) * b.mean(1) + 1e-6) / (a.mean(1) ** 2 + b.mean(1) ** 2 + 1e-6)
        spread = a.var(1, correction=0) + b.var(1, correction=0)
        structure = (2 * covariance + 1e-6) / (spread + 1e-6)
        similarity += (alpha * texture + beta * structure).sum().item()
    assert quality.dists(x, x_hat) == pytest.approx(1 - similarity, abs=1e-5)
    assert quality.dists(x, x) == pytest.approx(0, abs=1e-5)


class Half(nn.Module):
    def forward(self, x: Tensor, x_hat: Tensor) -> Tensor:
        return (x - x_hat).abs().mean() / 2


def test_a_requested_metric_reaches_records_tables_plots_and_the_registry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quality, "_network", lambda name: Half())
    images = open_images(None, "eval")[1:2]
    record = evaluate_anchor("jpeg", images, [20, 60], metrics=["lpips"])
    plain = evaluate_anchor("jpeg", images, [20])
    values = [point.images[0].lpips for point in record.points]
    assert values[0] > values[1] > 0  # type: ignore[operator]
    assert [row.values["lpips"] for row in rd_table([record]).rows] == values
    assert "lpips" not in [column.key for column in rd_table([plain]).columns]
    assert series_of_records([record], quality="lpips").quality == tuple(values)
    with pytest.raises(LabError, match="lpips is unknown"):
        series_of_records([plain], quality="lpips")
    assert record.to_compressai_json()["results"]["lpips"] == values

    class Trial:
        rd = record

    assert METRICS["lpips"].of(Trial()) == pytest.approx(sum(values) / 2)  # type: ignore[arg-type]
    assert METRICS["ssim"].of(Trial()) == np.mean([point.ssim for point in record.points])

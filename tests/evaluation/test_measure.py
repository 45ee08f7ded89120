import io
import itertools
import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tcm_lab._compat.torchvision import import_compressai
from tcm_lab._utils.devices import Precision
from tcm_lab.codec import CodecAdapter, build, encode_image, load_checkpoint, read_header
from tcm_lab.data import ImageSet, open_images
from tcm_lab.errors import LabError
from tcm_lab.evaluation import (
    Anchor,
    RdRecord,
    code_image,
    evaluate,
    evaluate_anchor,
    join_records,
    measure,
    measured_curves,
)

import_compressai()

from compressai.models import MeanScaleHyperprior  # noqa: E402  # what it needs left out, first


class Quantiser(nn.Module):
    """Keeps 2 + rate bits of every value, one byte each; its arithmetic is known."""

    def __init__(self, *, factor: float = 1.0) -> None:
        super().__init__()
        self.rate_levels = 3
        self.downsampling_factor = 1
        self.anything = nn.Parameter(torch.zeros(1))
        self.factor = factor

    def compress(self, x: Tensor, rate: float) -> dict[str, Any]:
        steps = 2 ** (2 + rate) - 1
        symbols = (x * steps).round().to(torch.uint8)
        half = symbols.numel() // 2
        data = symbols.numpy().tobytes()
        return {"strings": [[data[:half]], [[data[half:]]]], "shape": x.shape, "rate": rate}

    def decompress(self, strings: Any, shape: Any, rate: float) -> dict[str, Tensor]:
        data = strings[0][0] + strings[1][0][0]
        symbols = torch.from_numpy(np.frombuffer(data, np.uint8).copy()).reshape(shape)
        return {"x_hat": symbols.float() / (2 ** (2 + rate) - 1)}

    def forward(self, x: Tensor, rate: float) -> dict[str, Any]:
        return {"likelihoods": {"y": torch.full_like(x, 2.0 ** (-8 / self.factor))}}


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    rng = np.random.default_rng(0)
    for name, size in (("large", (161, 170)), ("small", (33, 57))):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return open_images(tmp_path, "eval")


def test_bits_are_whole_strings_over_the_pixels_of_the_image(images: ImageSet) -> None:
    record = evaluate(Quantiser(), images)
    assert [point.rate for point in record.points] == [0, 1, 2]
    for point in record.points:
        assert [image.payload_bpp for image in point.images] == [24, 24]
        assert point.gap_percent == pytest.approx(0, abs=1e-4)


def test_a_rate_is_that_of_the_file_that_encoding_writes(images: ImageSet) -> None:
    codec = build("tcm-nano", {"rate_levels": 2}).eval()
    told = evaluate(codec, images[1:2], rates=[0]).points[0].images[0]
    written = encode_image(codec, images[1].float() / 255, 0.0)
    header = read_header(written)
    assert told.bits == 8 * len(written)
    assert told.payload_bits == 8 * (header.y_bytes + header.z_bytes)


@pytest.mark.parametrize(
    "name",
    ["tcm-nano", "tcm-nano-conv-only", "dcae-nano", "hpcm-nano", "mlicpp-nano"],
)
@pytest.mark.parametrize("rate_levels", [0, 2])
def test_a_file_holds_as_many_bits_as_its_evaluation_says(
    images: ImageSet, name: str, rate_levels: int
) -> None:
    changes = {"g_?.depth": 1, "rate_levels": rate_levels}
    codec = build(name, changes).eval()
    rate = 1.0 if rate_levels else None
    record = evaluate(codec, images[1:2], rates=None if rate is None else [rate])
    (told,) = record.points[0].images
    written = encode_image(codec, images[1].float() / 255, rate)
    header = read_header(written)
    assert told.bits == 8 * len(written)
    assert told.payload_bits == 8 * (header.y_bytes + header.z_bytes)
    assert record.bpp[0] == pytest.approx(told.bits / (told.height * told.width))


def test_psnr_is_that_of_images_rounded_to_bytes(images: ImageSet) -> None:
    point = evaluate(Quantiser(), images, rates=[1]).points[0]
    x = images[1].double()
    x_hat = ((x / 255 * 7).round() / 7 * 255).round()
    expected = 10 * math.log10(255**2 / float((x - x_hat).square().mean()))
    assert point.images[1].psnr_db == pytest.approx(expected, abs=1e-4)


def test_ms_ssim_is_left_out_only_where_an_image_is_too_small(images: ImageSet) -> None:
    large, small = evaluate(Quantiser(), images, rates=[2]).points[0].images
    assert small.ms_ssim is None
    assert large.ms_ssim is not None
    assert 0.9 < large.ms_ssim < 1


def test_bits_are_estimated_as_by_the_forward_pass_but_no_second_image_is_decoded() -> None:
    codec = build("tcm-nano", {"?_?.depth": 1, "rate_levels": 2})
    image = torch.randint(256, (3, 40, 70), dtype=torch.uint8)
    passes = []
    codec.g_s.register_forward_hook(lambda *_: passes.append("g_s"))
    coded = code_image(codec, image, 0.5)
    assert passes == ["g_s"]
    with torch.no_grad():
        out = codec.eval()(image[None] / 255, 0.5)
    expected = -sum(part.double().log2().sum() for part in out["likelihoods"].values())
    assert coded.estimated_bits == pytest.approx(float(expected))


def test_a_gap_over_one_percent_between_written_and_estimated_bits_is_reported(
    images: ImageSet, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        record = evaluate(Quantiser(factor=1.02), images, name="q", rates=[0])
    assert record.points[0].gap_percent == pytest.approx(2, abs=1e-3)
    assert "q: written bits are +2.0 % off the estimate at rate 0" in caplog.text


def test_rates_outside_the_levels_are_refused(images: ImageSet) -> None:
    with pytest.raises(LabError, match="from 0 to 2"):
        evaluate(Quantiser(), images, rates=[2.5])
    with pytest.raises(LabError, match="levels 0 to 2"):
        code_image(Quantiser(), images[0], rate=2.5)
    with pytest.raises(LabError, match="no rate levels"):
        code_image(MeanScaleHyperprior(8, 12), images[0], rate=0)


def test_padding_repeats_the_last_row_and_column_up_to_the_foreign_codecs_stride() -> None:
    x = torch.arange(3 * 65 * 100, dtype=torch.float32).view(1, 3, 65, 100)
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (0, 63), (0, 28)), mode="edge")
    padded = CodecAdapter(MeanScaleHyperprior(8, 12)).pad(x)
    np.testing.assert_array_equal(padded.numpy(), expected)


def test_a_compressai_model_is_padded_coded_to_real_bytes_and_cropped(images: ImageSet) -> None:
    torch.manual_seed(0)
    model = MeanScaleHyperprior(8, 12).eval()
    seen = []
    record = evaluate(model, images, on_progress=lambda done, whole: seen.append((done, whole)))
    assert seen == [(1, 2), (2, 2)]
    assert [(i.height, i.width) for i in record.points[0].images] == [(161, 170), (33, 57)]
    padded = nn.functional.pad(images[1][None].float() / 255, (0, 7, 0, 31), mode="replicate")
    coded = model.compress(padded)
    told = record.points[0].images[1]
    assert told.payload_bits == 8 * sum(len(s) for part in coded["strings"] for s in part)
    x_hat = model.decompress(coded["strings"], coded["shape"])["x_hat"].detach()
    errors = images[1] - (255 * x_hat[0, :, :33, :57].clamp(0, 1)).round()
    mse = float(errors.double().square().mean())
    assert told.psnr_db == pytest.approx(10 * math.log10(255**2 / mse), abs=1e-4)
    with pytest.raises(LabError, match="has one rate"):
        evaluate(model, images, rates=[0])


def test_the_record_reads_back_and_compressais_plots_read_its_export(
    images: ImageSet, tmp_path: Path
) -> None:
    record = evaluate(Quantiser(), images, name="mine")
    assert RdRecord.model_validate_json(record.model_dump_json()) == record
    from compressai.utils.plot.__main__ import parse_json_file

    path = tmp_path / "mine.json"
    path.write_text(json.dumps(record.to_compressai_json()))
    for metric, ours in (("psnr", record.psnr_db), ("ms-ssim", None)):
        read = parse_json_file(path, metric)
        assert read["name"] == "mine"
        assert read["xs"] == list(record.bpp)
        values = [p.ms_ssim_db for p in record.points] if ours is None else list(ours)
        assert list(read["ys"]) == pytest.approx(values)
    told = record.to_compressai_json()["results"]
    for name, times_ms in (("encoding", "encode_ms"), ("decoding", "decode_ms")):
        seconds = [getattr(point, times_ms) * 1e-3 for point in record.points]
        assert told[f"{name}_time"] == pytest.approx(seconds, rel=1e-9)


@pytest.mark.parametrize("codec", ["jpeg", "webp"])
def test_an_anchors_bits_are_the_size_of_the_file(codec: Anchor, images: ImageSet) -> None:
    told = []
    record = evaluate_anchor(codec, images, [30, 90], on_progress=lambda *done: told.append(done))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert record.bpp[0] < record.bpp[1]
    assert record.psnr_db[0] < record.psnr_db[1]
    options = {"optimize": True, "subsampling": "4:2:0"} if codec == "jpeg" else {"method": 4}
    file = io.BytesIO()
    Image.fromarray(images.decode(0)).save(file, codec, quality=30, **options)
    image = record.points[0].images[0]
    assert image.bits == 8 * file.getbuffer().nbytes
    assert image.payload_bits is not None
    assert 0 < image.payload_bits < image.bits


def test_an_anchors_times_are_those_of_the_clock(
    images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.cycle([10.0, 10.25, 11.0])  # before, between writing and reading, after
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    (point,) = evaluate_anchor("jpeg", images, [50]).points
    assert {image.encode_ms for image in point.images} == {250}
    assert {image.decode_ms for image in point.images} == {750}
    assert [(i.height, i.width) for i in point.images] == [(161, 170), (33, 57)]


def test_an_empty_set_is_refused_by_codecs_and_anchors(images: ImageSet) -> None:
    with pytest.raises(LabError, match="the set is empty"):
        evaluate(Quantiser(), images[:0])
    with pytest.raises(LabError, match="the set is empty"):
        evaluate_anchor("jpeg", images[:0])


@pytest.mark.parametrize("codec", ["jpeg", "webp"])
def test_an_image_too_large_for_an_anchors_format_is_named(codec: Anchor, tmp_path: Path) -> None:
    Image.new("RGB", (66_000, 2)).save(tmp_path / "wide.png")
    with pytest.raises(LabError, match=f"wide.png: {codec} cannot hold this image"):
        evaluate_anchor(codec, open_images(tmp_path, "eval"), [50])


def test_an_image_that_is_decoded_to_nan_is_named_and_gives_no_record(images: ImageSet) -> None:
    class Damaged(Quantiser):
        def decompress(self, strings: Any, shape: Any, rate: float) -> dict[str, Tensor]:
            x_hat = super().decompress(strings, shape, rate)["x_hat"]
            x_hat[..., -1, -1] = math.nan
            return {"x_hat": x_hat}

    with pytest.raises(LabError, match=r"large\.png: is decoded to values that are not numbers"):
        evaluate(Damaged(), images)


def test_a_codec_without_likelihoods_is_measured_by_what_it_writes(images: ImageSet) -> None:
    class Unsaid(Quantiser):
        def forward(self, x: Tensor, rate: float) -> dict[str, Any]:
            return {"x_hat": x}

    unsaid, told = (evaluate(codec, images) for codec in (Unsaid(), Quantiser()))
    assert unsaid.bpp == told.bpp
    assert unsaid.psnr_db == told.psnr_db
    assert [point.gap_percent for point in unsaid.points] == [None] * 3


def test_anchors_refuse_what_they_do_not_know(images: ImageSet) -> None:
    with pytest.raises(LabError, match="jpeg or webp"):
        evaluate_anchor("gif", images)  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", ["jpeg", "webp"])
def test_an_anchors_qualities_are_whole_numbers_of_any_type(
    codec: Anchor, images: ImageSet
) -> None:
    record = evaluate_anchor(codec, images, np.arange(30, 100, 60))  # type: ignore[arg-type]  # works
    assert record.bpp == evaluate_anchor(codec, images, [90, 30, 90]).bpp
    wrong: list[Any] = [[101], [50, -1], [50.0], [math.nan], ["50"], [], np.arange(0), 50]
    for qualities in wrong:
        with pytest.raises(LabError, match=r"^qualities .*: give whole numbers from 0 to 100"):
            evaluate_anchor(codec, images, qualities)


def test_sixteen_bits_are_named_and_cost_little(tmp_path: Path) -> None:
    codec = load_checkpoint("tcm-nano")
    middle = open_images(None, "eval").decode(0)[128:384, 128:384]
    Image.fromarray(middle).save(tmp_path / "middle.png")
    images = open_images(tmp_path, "eval")
    exact, half = (evaluate(codec, images, precision=p) for p in ("float32", "bfloat16"))
    assert (exact.name, exact.precision) == ("tcm-nano", "float32")
    assert (half.name, half.precision) == ("tcm-nano (bfloat16)", "bfloat16")
    # Eight bits of mantissa: other numbers, nearly the same codec.
    assert half.psnr_db != exact.psnr_db
    np.testing.assert_allclose(half.bpp, exact.bpp, rtol=0.02)
    np.testing.assert_allclose(half.psnr_db, exact.psnr_db, atol=0.1)
    assert len(measured_curves([exact, half])) == 2
    with pytest.raises(LabError, match="measured in bfloat16 and float32"):
        join_records([exact.model_copy(update={"name": half.name}), half])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_metrics_are_those_of_float32_whatever_the_codec_computes_in(
    images: ImageSet, precision: Precision
) -> None:
    exact, other = (evaluate(Quantiser(), images, precision=p) for p in ("float32", precision))
    for ours, theirs in zip(other.points, exact.points, strict=True):
        assert ours.ssim == theirs.ssim
        assert ours.ms_ssim == theirs.ms_ssim
        assert ours.psnr_yuv_db == theirs.psnr_yuv_db


def test_a_precision_that_the_device_has_not_is_refused(images: ImageSet) -> None:
    with pytest.raises(LabError, match="precision = tf32: only GPUs support it"):
        evaluate(Quantiser(), images, precision="tf32")


def test_two_widths_of_one_foreign_class_are_two_curves(images: ImageSet) -> None:
    class Sized(Quantiser):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.spare = nn.Parameter(torch.zeros(width))

    one, two, again = (evaluate(Sized(width), images) for width in (1, 2, 1))
    curves = measured_curves([one, two, again])
    assert [curve.label for curve in curves] == ["Sized", "Sized #2"]
    assert [curve.records for curve in curves] == [(one,), (two,)]
    with pytest.raises(LabError, match="different architectures"):
        join_records([one, two])
    assert RdRecord.model_validate_json(two.model_dump_json()) == two
    assert "shapes" not in evaluate_anchor("jpeg", images, [30]).model_dump()

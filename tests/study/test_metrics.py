"""The registry of metrics: values from records, names that users mistype, metrics of their own."""

from __future__ import annotations

import pytest
from surrogate import curve
from test_compare import LAMBDAS, NANO, trainings

import tcm_lab
from tcm_lab.complexity import measure_complexity
from tcm_lab.errors import ConfigError, LabError
from tcm_lab.evaluation import bd_rate, lagrangian_percent
from tcm_lab.metrics import METRICS


def test_counts_are_those_of_the_complexity_record() -> None:
    (record,) = trainings((0.0,))
    counted = measure_complexity(NANO, (64, 64))
    assert METRICS["parameters"].of(record) == counted.total_parameters
    assert METRICS["weight_bytes"].of(record) == 4 * counted.total_parameters
    macs = {part: sum(kinds.values()) for part, kinds in counted.macs.items()}
    encoder = sum(value for part, value in macs.items() if part != "g_s")
    ours = METRICS["encode_kmacs_per_px"].of(record)
    assert ours <= encoder / (64 * 64) / 1e3  # which counts normalisation too
    assert METRICS["peak_memory_bytes"].of(record) is None


def test_rates_are_means_over_images_and_levels() -> None:
    (record,) = trainings((0.0,))
    images = [image for point in record.rd.points for image in point.images]
    assert METRICS["bpp"].of(record) == pytest.approx(
        sum(image.bits for image in images) / (64 * 64) / len(images)
    )
    assert METRICS["file_bytes"].of(record) == pytest.approx(
        sum(image.bits for image in images) / 8 / len(images)
    )
    assert METRICS["encode_ms"].of(record) == 10


def test_comparisons_take_the_baseline_as_anchor() -> None:
    baseline, better = trainings((0.0, 0.5))
    assert (
        METRICS["bd_rate_percent"].of(better, baseline)
        == bd_rate(curve(NANO).curve(), curve(NANO, bonus=0.5).curve()).percent
    )
    expected = lagrangian_percent(baseline.rd, better.rd, lambdas=LAMBDAS)
    assert METRICS["lagrangian_percent"].of(better, baseline) == expected < 0
    for name in ("bd_rate_percent", "lagrangian_percent"):
        assert METRICS[name].of(baseline, baseline) == 0
        assert METRICS[name].of(better) is None


def test_losses_of_all_metrics_fall_as_a_codec_gets_better() -> None:
    baseline, better = trainings((0.0, 0.5))
    for name in ("psnr_db", "lagrangian_percent", "bd_rate_percent"):
        metric = METRICS[name]
        losses = [metric.loss(metric.of(record, baseline)) for record in (baseline, better)]
        assert losses[1] < losses[0], name


def test_a_mistyped_name_is_answered_with_the_nearest_ones() -> None:
    with pytest.raises(ConfigError, match=r"'kmac_per_px'.* Did you mean kmacs_per_px"):
        METRICS["kmac_per_px"]
    assert "kmac_per_px" not in METRICS


def test_a_metric_of_ones_own_is_registered_once() -> None:
    @tcm_lab.register_metric("best_psnr_db", unit="dB", direction="maximize", needs="rd")
    def best(record: object, baseline: object) -> float:
        return max(record.rd.psnr_db)  # type: ignore[attr-defined]

    try:
        (record,) = trainings((0.0,))
        assert METRICS["best_psnr_db"].of(record) == record.rd.points[-1].psnr_db
        assert METRICS["best_psnr_db"].label == "best_psnr_db"
        with pytest.raises(LabError, match="'best_psnr_db' is taken"):
            tcm_lab.register_metric("best_psnr_db")
        with pytest.raises(LabError, match="cannot name a metric"):
            tcm_lab.register_metric("best psnr")
    finally:
        METRICS.unregister("best_psnr_db")

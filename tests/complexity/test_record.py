"""The record: self-describing, comparable, and quick to make."""

from __future__ import annotations

import pytest
import torch

from tcm_lab.codec import load_config
from tcm_lab.complexity import ComplexityRecord, measure_complexity, measure_timing
from tcm_lab.errors import LabError


def test_a_record_survives_json() -> None:
    record = measure_complexity("tcm-nano", (100, 150))
    assert ComplexityRecord.model_validate_json(record.model_dump_json()) == record


def test_kilomacs_are_per_pixel_before_padding() -> None:
    whole = measure_complexity("tcm-nano", (128, 128))
    cropped = measure_complexity("tcm-nano", (65, 127))
    assert cropped.padded_size == (128, 128)
    assert cropped.total_gmacs() == whole.total_gmacs()
    assert cropped.kmacs_per_px == pytest.approx(whole.kmacs_per_px * 128 * 128 / (65 * 127))


def test_equal_codecs_have_equal_fingerprints_whatever_they_are_called() -> None:
    config = load_config("tcm-nano")
    renamed = config.override({"name": "mine"})
    assert measure_complexity(renamed).fingerprint == measure_complexity(config).fingerprint
    changed = config.override({"g_a.split": 0.25})
    assert measure_complexity(changed).fingerprint != measure_complexity(config).fingerprint


def test_weights_take_four_bytes_each() -> None:
    record = measure_complexity("tcm-small")
    assert record.weight_bytes == 4 * 45_180_752


def test_what_does_not_exist_is_refused_with_what_does() -> None:
    with pytest.raises(LabError, match="formula"):
        measure_complexity("tcm-nano", counter="formule")  # type: ignore[arg-type]  # the mistake
    with pytest.raises(LabError, match="conv-linear-only"):
        measure_complexity("tcm-nano").total_macs("whole", "conv-only")  # type: ignore[arg-type]  # the mistake
    with pytest.raises(LabError, match="height"):
        measure_complexity("tcm-nano", (0, 64))
    with pytest.raises(LabError, match="tcm-large"):
        measure_complexity("tcm-larg")
    with pytest.raises(LabError, match=r"give Identity\(\), not the class"):
        measure_complexity(torch.nn.Identity)  # type: ignore[arg-type]  # the mistake
    with pytest.raises(LabError, match="3 is neither a model's name"):
        measure_timing(3)  # type: ignore[arg-type]  # the mistake

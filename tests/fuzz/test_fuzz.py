"""The first of the many files that ``nox -s fuzz`` tries: used, or refused with one clear error."""

from __future__ import annotations

import fuzz_checkpoints
import fuzz_images
import fuzz_yaml


def test_every_odd_image_is_used_or_left_out_and_reported() -> None:
    outcome = fuzz_images.fuzz(200)
    assert outcome["used"] + outcome["left out"] == 200
    assert min(outcome["used"], outcome["left out"], outcome["broke while training"]) > 10


def test_every_odd_checkpoint_is_loaded_whole_or_refused() -> None:
    loaded, refused = fuzz_checkpoints.fuzz(60)
    assert loaded + sum(refused.values()) == 60
    assert loaded > 10
    assert len(refused) > 10


def test_every_odd_yaml_file_is_read_as_it_says_or_refused() -> None:
    read, refused = fuzz_yaml.fuzz(150)
    assert read + sum(refused.values()) == 150
    assert read > 10
    assert len(refused) > 30

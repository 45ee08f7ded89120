"""The first of the many files that ``nox -s fuzz`` tries: used, or refused with one clear error."""

from __future__ import annotations

import fuzz_checkpoints
import fuzz_images
import fuzz_yaml


def test_every_odd_image_is_used_or_left_out_and_reported() -> None:
    outcome = fuzz_images.fuzz(300)
    assert outcome["used"] + outcome["left out"] == 300
    assert min(outcome["used"], outcome["left out"], outcome["broke while training"]) > 10


def test_every_odd_checkpoint_is_loaded_whole_or_refused() -> None:
    loaded, refused = fuzz_checkpoints.fuzz(100)
    assert loaded + sum(refused.values()) == 100
    assert loaded > 20
    assert len(refused) > 20


def test_every_odd_yaml_file_is_read_as_it_says_or_refused() -> None:
    read, refused = fuzz_yaml.fuzz(300)
    assert read + sum(refused.values()) == 300
    assert read > 20
    assert len(refused) > 40

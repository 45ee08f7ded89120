"""Transforms by the name of the preset that has them."""

from pathlib import Path

import pytest

import tcm_lab
from tcm_lab.errors import ConfigError


def test_a_transform_is_that_of_the_preset_whose_name_it_is() -> None:
    config = tcm_lab.load_config("tcm-nano").override({"g_*": "mlicpp-nano", "g_a.width": 16})
    other = tcm_lab.load_config("mlicpp-nano")
    assert config.g_s == other.g_s
    assert config.g_a == other.override({"g_a.width": 16}).g_a
    assert config.h_a == tcm_lab.load_config("tcm-nano").h_a
    again = tcm_lab.load_config("tcm-nano").override({"g_a": "mlicpp-nano"})
    assert again.g_a == other.g_a, "what was changed of the first one is the first one's alone"


def test_a_whole_file_may_name_transforms_and_is_written_with_their_stages(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nlatent_channels: 64\nhyper_channels: 32\n"
        + "".join(f"{name}: dcae-nano\n" for name in ("g_a", "g_s", "h_a", "h_s"))
        + "entropy_model: {slices: 4, support: 4}\n"
    )
    config = tcm_lab.load_config(path)
    assert config.g_a == tcm_lab.load_config("dcae-nano").g_a
    assert config.model_dump(mode="json")["g_a"]["stages"][0]["width"] == 16


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("dcae-nanu", "g_a: there is no preset 'dcae-nanu' .* Did you mean dcae-nano"),
        ("tcm-no-lrp", "g_a: the preset 'tcm-no-lrp' only changes tcm-small"),
    ],
)
def test_a_name_that_means_no_transform_is_refused(value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tcm_lab.load_config("tcm-nano").override({"g_a": value})

"""What a mistake in a configuration is answered with: the field, its value, and what works."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import tcm_lab
from tcm_lab.blocks import BLOCKS
from tcm_lab.blocks.tcm import TcmConfig
from tcm_lab.codec.entropy_models.slicing import check_slices
from tcm_lab.errors import ConfigError, one_of

MISTAKES: list[tuple[dict[str, Any], str]] = [
    (
        {"g_a.splt": 0.5},
        "no field 'splt' in 'g_a' (of 'g_a.splt'). Did you mean split or resample? "
        "Known: alternate_shift, attention, block, depth, head_dim, mlp_ratio, resample, split, "
        "stages, width or window_size.",
    ),
    (
        {"g_a.split": 0.3},
        "g_a.stages.0.block: split = 0.3 of 32 channels is 9.6, not whole heads of 8; "
        "nearest that work: 0.25 or 0.5 (or another head_dim)",
    ),
    ({"g_a.depth": True}, "depth = True must be a number"),
    ({"g_a.split": True}, "split = True must be a number"),
    ({"latent_channels": True}, "latent_channels = True must be a number"),
    ({"hyper_channels": 3}, "hyper_channels = 3: must be at least 4, since the entropy coder"),
    ({"entropy_model.slices": [True, 63]}, "slices = [True, 63] must be a number"),
    ({"entropy_model.checkerboard": 1}, "checkerboard = 1 must be true or false"),
    ({"g_a.split": 1.5}, "split = 1.5: must be at most 1"),
    ({"h_s.window_size": 1}, "window_size = 1: must be at least 2"),
    (
        {"g_s.head_dim": [8, 8]},
        "g_s.head_dim = [8, 8]: 2 values for 3 stages; "
        "give one value, or one for each stage that has this field",
    ),
    (
        {"g_s.block": "swin", "g_s.head_dim": 12},
        "g_s.stages.0.block: head_dim = 12 does not divide 32 channels; "
        "values that do: 4, 8, 16 or 32",
    ),
    (
        {"g_a.block": "tmc"},
        f"g_a.block: no block is called 'tmc'. Did you mean tcm? Known: {one_of(sorted(BLOCKS))}.",
    ),
    (
        {"g_a.block": {"type": "convnext", "kernal": 5}},
        "g_a.block: convnext: unknown field 'kernal'. Did you mean kernel? "
        "Known: type, kernel or mlp_ratio.",
    ),
    (
        {"g_a.block": {"type": "convnext", "kernel": 4}},
        "g_a.block: convnext: kernel: 4 is even, but a kernel has a centre: 3 or 5 would work",
    ),
    (
        {"entropy_model.slices": 5},
        "entropy_model.slices = 5 does not divide latent_channels = 64; "
        "nearest that do: 2 or 4 (or list the slices' widths)",
    ),
    (
        {"entropy_model.slices": [10, 20, 30]},
        "entropy_model.slices = [10, 20, 30] sum to 60, not to latent_channels = 64",
    ),
    (
        {"entropy_model.slices": [16, 16, 16, 16]},
        "entropy_model.slices: slices = [16, 16, 16, 16] are equal; write their number, 4",
    ),
    (
        {"entropy_model.attention.squeeze": 20},
        "entropy_model.attention: squeeze = 20 is not whole heads of 8; "
        "nearest that work: 16 or 24 (or another head_dim)",
    ),
    (
        {"entropy_model.hidden": "none"},
        "entropy_model.hidden = none uses the hyper output as mean and scale, which rules out "
        "entropy_model.slices = 4; set slices 1, attention none, lrp none, checkerboard false",
    ),
    (
        {"entropy_model.lrp": "after"},
        "entropy_model.lrp = 'after': must be 'none', 'before-attention' or 'after-attention'",
    ),
    (
        {"g_a.stages.3.resample.stride": 1},
        "g_a shrinks the sides 8 times, but g_s enlarges them 16 times; give both the same strides",
    ),
    (
        {"g_a.stages.3.width": 48},
        "g_a.stages.3.width = 48, but g_a must end at 64 channels; leave it out",
    ),
    (
        {"g_a.stages.1.resample": "none", "g_a.stages.1.width": 48},
        "g_a.stages.1.resample: resample = none keeps 32 channels but the stage has width 48; "
        "set the width to 32 or resample to 'conv' with stride 1",
    ),
    ({"latent_channels": 0}, "latent_channels = 0: must be greater than 0"),
    ({"rate_levels": 1}, "rate_levels: rate_levels = 1 has nothing to choose from; write 0, or 2"),
    (
        {"entropy_model.slice": 5},
        "no field 'slice' in 'entropy_model' (of 'entropy_model.slice'). Did you mean slices",
    ),
    (
        {"g_a.stages.*.blok.type": "tcm"},
        "no field 'blok' in 'g_a.stages.*' (of 'g_a.stages.*.blok.type'). Did you mean block? ",
    ),
    ({"window_size": 4}, "Did you mean g_*.window_size, h_*.window_size or entropy_model.atten"),
    ({"entropy_model.squeeze": 8}, "Did you mean entropy_model.attention.squeeze? Known: atten"),
    ({"block": {"type": "residual"}}, "Did you mean g_*.block or h_*.block? Known: entropy_model"),
    ({"g_b.split": 0.5}, "no field 'g_b' (of 'g_b.split'). Did you mean g_s or g_a? Known: "),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_is_answered_with_the_field_its_value_and_what_works(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        tcm_lab.load_config("tcm-nano").override(changes)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


#: Lists of ten of the list before: as many values as no memory holds, if they are written out.
LAUGHS = "a0: &a0 [x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join(10 * [f'*a{i - 1}'])}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("g_a: [", "not YAML"),
        ("just words", "holds str, not a mapping of fields"),
        ("name: x\n", "'latent_channels' is missing"),
        ("base: tcm-nano\nchanges: {}\n", "unknown field 'changes'"),
        ("base: tcm-nanno\n", "no such file|neither a preset nor a YAML file"),
        ("base: tcm-nano\noverride: {g_a.split: 2}\n", "split = 2"),
        ("", "is empty, not a mapping of fields"),
        ("name: x\ng_a:\n  stages: []\n  stages: []\n", "line 4: 'stages' is given twice"),
        ("base: tcm-nano\noverride: {1: 2}\n", "line 2: the key 1 is not text; put it in quotes"),
        ("name: x\non: 2\n", "line 2: the key on is not text"),
        ("? [a, b]\n: 2\n", "line 1: the key of several values is not text"),
        (
            "base: tcm-nano\noverride: [g_a.split]\n",
            r"override = \['g_a.split'\]: must be a mapping",
        ),
        ("base: [tcm-nano]\n", r"base = \['tcm-nano'\]: must be a string"),
        ("base: mine.yaml\n", r"each other's base: mine\.yaml -> mine\.yaml"),
        ("name: &a [*a]\n", r"line 1: \*a contains itself"),
        ("name: " + 80 * "[" + 80 * "]", "nested deeper than 64 levels"),
        (b"name: \xff\n", "line 1: not UTF-8"),
        ("name: !!python/object:os.system {}\n", "not YAML"),
        ("name: \x00\n", "not YAML"),
        ("base: tcm-nano\noverride: {g_a.split: 0}\noverride: {}\n", "'override' is given twice"),
        ("base: tcm-nano\noverride: {g_a.split: 0, g_a.split: 1}\n", "'g_a.split' is given twice"),
        ("base: tcm-nano\noverride: {<<: {g_a.split: 0, g_a.split: 1}}\n", "is given twice"),
        ("base: tcm-nano\n<<: {name: a}\n<<: {name: b}\n", "'<<' is given twice; write one list"),
        ("base: tcm-nano\n'base': tcm-small\n", "'base' is given twice"),
        ("a: &a {b: &b {c: 1, c: 2}}\nbase: tcm-nano\n", "'c' is given twice"),
        ("base: tcm-nano\noverride: {g_a.width: 010}\n", "010 is a number in base 8 in YAML 1.1"),
        ("base: tcm-nano\noverride: {g_a.width: 0_10}\n", "0_10 is a number in base 8 in YAML"),
        ("base: tcm-nano\noverride: {g_a.width: 1:30}\n", "1:30 is a number in base 60"),
        ("base: tcm-nano\noverride: {g_a.split: 1:30.5}\n", "is a number in base 60"),
        ("base: tcm-nano\noverride: {g_a.split: 0,25}\n", "unknown|given|no field|is not text|25"),
        ("base: tcm-nano\noverride: {g_a.width: " + 5000 * "9" + "}\n", "not YAML|at most"),
        ("name: x\n---\nname: y\n", "not YAML"),
        ("name: x\nd: 2000-13-01\n", "not YAML"),
        ("name: !!set {a}\n", "must be|missing"),
        (LAUGHS, "holds more than 100000 values"),
        ("base: tcm-nano".encode("utf-16"), "not UTF-8"),
        ("base: tcm-nano".encode("utf-32"), "not UTF-8|not YAML"),
        ("base: tcm-nano\nname: é\n".encode("latin-1"), "line 2: not UTF-8"),
        ("base: tcm-nano".encode("cp037"), "not UTF-8|not YAML"),
    ],
)
def test_a_mistake_in_a_file_is_answered_with_the_file(
    text: str | bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message) as raised:
        tcm_lab.load_config(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("runs/mine", "'runs/mine': no such file"),
        ("model.safetensors", "'model.safetensors': no such file"),
        ("tcm-nanno", "'tcm-nanno': neither a preset nor a YAML file. Did you mean tcm-nano"),
        ("nowhere.yaml", "'nowhere.yaml': no such file"),
        ("compressai/mbt2018", "CompressAI's own model, which has no configuration here"),
        ("my_codec.py:make", "'my_codec.py:make' is a codec of your own, which has no config"),
    ],
)
def test_a_name_that_is_no_configuration_is_answered_with_the_near_ones(
    source: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tcm_lab.load_config(source)


def test_an_unknown_reference_model_is_answered_with_the_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"CompressAI has no model 'mbt2017'\. Did you mean mbt"):
        tcm_lab.build("compressai/mbt2017")


def test_the_latent_itself_is_a_number_of_slices_that_divides_it() -> None:
    with pytest.raises(ConfigError, match="nearest that do: 1 or 7, or other entropy"):
        check_slices(6, 7, ", or other entropy models")


@pytest.mark.parametrize("width", [24, 40, 72, 88, 96, 128, 176])
def test_the_splits_that_a_message_names_work(width: int) -> None:
    for split in (0.1, 0.3, 0.47, 0.9):
        with pytest.raises(ConfigError) as caught:
            TcmConfig(split=split, head_dim=8).check(width)
        named = re.search(r"nearest that work: ([0-9.]+)(?: or ([0-9.]+))?", str(caught.value))
        assert named is not None
        for each in filter(None, named.groups()):
            TcmConfig(split=float(each), head_dim=8).check(width)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("compressai/mbt2018", {"quality": 30}, "quality = 30"),
        ("compressai/mbt2018", {"quality": "high"}, "quality = high: must be an integer"),
        ("compressai/mbt2018", {"quality": True}, "quality = True: must be an integer"),
        ("compressai/mbt2018", {"g_a.split": 0}, "only quality can be set, not 'g_a.split'"),
        ("compressai/elic2022-official", {"quality": 3}, "has no quality setting"),
    ],
)
def test_a_reference_model_s_widths_are_chosen_by_quality_alone(
    name: str, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tcm_lab.build(name, overrides)


def test_a_path_reaches_every_stage_that_has_the_field_and_a_list_each_its_own() -> None:
    config = tcm_lab.load_config("tcm-nano")
    one = config.override({"g_?.split": [0.25, 0.5, 0.75], "h_?.split": 0})
    for transform in (one.g_a, one.g_s):
        blocks = [stage.block for stage in transform.stages]
        assert [block.split for block in blocks if block] == [0.25, 0.5, 0.75]
    assert [stage.block.split for stage in one.h_a.stages if stage.block] == [0]
    single = config.override({"g_a.stages.1.window_size": 4})
    assert [stage.block.window_size for stage in single.g_a.stages if stage.block] == [8, 4, 8]


def test_a_path_reaches_one_item_of_a_list() -> None:
    config = tcm_lab.load_config("tcm-nano").override({"entropy_model.hidden.1": 20})
    assert config.entropy_model.hidden == (32, 20)
    with pytest.raises(
        ConfigError, match=r"no field '2' in 'entropy_model\.hidden'.*Known: 0 or 1"
    ):
        config.override({"entropy_model.hidden.2": 20})


class Nested(torch.nn.Conv2d):
    """A layer whose options are called as a stage's fields are."""

    def __init__(
        self, channels: int, depth: int = 2, attention: bool = False, resample: str = "no"
    ) -> None:
        super().__init__(channels, channels, 1)


@pytest.mark.usefixtures("own_layers")
def test_an_option_called_as_a_field_above_it_is_reached_by_its_whole_path_alone() -> None:
    tcm_lab.register_block("nested")(Nested)
    tcm_lab.register_entropy_model("nested")(Nested)
    config = tcm_lab.load_config("tcm-nano").override({"g_a.block": "nested", "g_a.depth": 3})
    config = config.override({"entropy_model": "nested", "entropy_model.depth": 4})
    assert config.entropy_model.model_dump()["depth"] == 4
    inner = config.override({"g_a.block.depth": 5, "g_a.block.attention": True})
    for whole, block in ((config, (2, False)), (inner, (5, True))):
        stages = [stage for stage in whole.g_a.stages if stage.block]
        assert [stage.depth for stage in stages] == [3, 3, 3]
        assert [(s.block.depth, s.block.attention) for s in stages] == 3 * [block]
        assert {stage.attention.type for stage in stages} == {"none"}


def test_a_path_into_a_value_that_an_override_gave_changes_it_at_one_place_alone() -> None:
    config = tcm_lab.load_config("tcm-nano")
    both = {"stages": config.model_dump(mode="json")["g_a"]["stages"]}
    given = copy.deepcopy(both)
    one = config.override({"g_*": both, "g_a.stages.0.depth": 3, "h_a": "tcm-small"})
    assert both == given
    assert [one.g_a.stages[0].depth, one.g_s.stages[0].depth] == [3, 2]
    config.override({"h_a": "tcm-small", "h_a.depth": 9})
    assert tcm_lab.load_config("tcm-nano").override({"h_a": "tcm-small"}).h_a == one.h_a


def test_a_path_reaches_the_defaults_of_a_transform_or_stage_set_just_before() -> None:
    config = tcm_lab.load_config("tcm-nano")
    stage = {"resample": "conv", "width": 32, "depth": 2, "block": "tcm"}
    given: dict[str, Any] = {
        "g_a": "dcae-nano",
        "h_a": "mlicpp-nano",
        "g_s.stages.0": stage,
        "h_s.stages": [stage, {"resample": "conv", "depth": 0, "block": "swin"}],
    }
    later = {"g_a.mlp_ratio": 2, "g_s.stages.0.mlp_ratio": 3, "h_a.stages.0.attention": "none"}
    at_once = config.override({**given, **later})
    assert at_once == config.override(given).override(later)
    ratios = {stage.block.mlp_ratio for stage in at_once.g_a.stages if stage.block}
    assert ratios == {2}
    assert at_once.g_s.stages[0].block.mlp_ratio == 3  # type: ignore[union-attr]  # a block of type tcm
    deeper = config.override({**given, "h_s.stages.1.depth": 1})
    assert [stage.block.type for stage in deeper.h_s.stages if stage.block] == ["tcm", "swin"]


def test_the_fingerprint_is_of_what_acts() -> None:
    config = tcm_lab.load_config("tcm-nano")
    assert config.override({"name": "other"}).fingerprint == config.fingerprint
    assert config.override({"entropy_model.support": 9}).fingerprint == config.fingerprint
    assert config.override({"entropy_model.support": 2}).fingerprint != config.fingerprint
    assert config.override({"g_a.stages.0.split": 0.25}).fingerprint != config.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"g_a.stages.3.width": 64},
        {"g_s.stages.3.width": 3},
        {"h_a.stages.1.width": 32},
        {"h_s.stages.1.width": 64},
        {"g_a.stages.3.depth": 0, "g_a.stages.3.block": "tcm"},
        {"g_a.stages.3.depth": "0", "g_a.stages.3.block": "tcm"},
        {"g_a.stages.3.depth": 0.0, "g_a.stages.3.block": {"type": "swin", "head_dim": 7}},
        {"g_a.stages.0.width": "32"},
        {"h_a.split": "0.50"},
    ],
)
def test_what_is_written_otherwise_is_the_same_codec(change: dict[str, Any]) -> None:
    config = tcm_lab.load_config("tcm-nano")
    assert config.override(change).fingerprint == config.fingerprint


def test_zero_has_no_sign() -> None:
    config = tcm_lab.load_config("tcm-nano")
    none = config.override({"g_a.split": 0.0})
    assert none.override({"g_a.split": -0.0}).fingerprint == none.fingerprint


def test_no_overrides_are_the_same_configuration() -> None:
    config = tcm_lab.load_config("tcm-nano")
    assert config.override({}) is config


def test_two_files_that_are_each_other_s_base_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(ConfigError, match=r"base: a\.yaml -> b\.yaml -> a\.yaml"):
        tcm_lab.load_config(tmp_path / "a.yaml")


def test_a_configuration_is_frozen() -> None:
    config = tcm_lab.load_config("tcm-nano")
    with pytest.raises(ValueError, match="frozen"):
        config.latent_channels = 8  # type: ignore[misc]  # what is tried here


def test_anchors_and_merges_that_are_no_mistake_are_read(tmp_path: Path) -> None:
    text = """
base: tcm-nano
override: &all
  <<: {g_s.split: 0.25, h_a.split: 0.0}
  g_a.split: &half 0.5
  g_s.split: *half
  h_s.split: 0
"""
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    config = tcm_lab.load_config(tmp_path / "mine.yaml")
    same = {"g_a.split": 0.5, "g_s.split": 0.5, "h_a.split": 0, "h_s.split": 0}
    assert config.fingerprint == tcm_lab.load_config("tcm-nano").override(same).fingerprint

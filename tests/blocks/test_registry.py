import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tcm_lab
from tcm_lab._utils.plugins import import_layers
from tcm_lab.blocks import ATTENTIONS, BLOCKS, FINGERPRINT, RESAMPLERS, NoFormula
from tcm_lab.blocks.cost import Cost, Kind, conv_cost
from tcm_lab.errors import ConfigError


def _yaml(folder: Path, block: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(
        "base: tcm-nano\nname: mine\noverride:\n"
        f"  g_a.stages.1.block: {block}\n  g_s.stages.1.block: {block}\n"
    )
    return path


@pytest.mark.usefixtures("own_layers")
def test_a_module_registered_in_five_lines_is_usable_from_yaml(tmp_path: Path) -> None:
    @tcm_lab.register_block("my-block")
    class MyBlock(nn.Conv2d):
        def __init__(self, channels: int, kernel: int = 3, *, bias: bool = True) -> None:
            super().__init__(channels, channels, kernel, padding=kernel // 2, bias=bias)

    codec = tcm_lab.build(_yaml(tmp_path, "{type: my-block, kernel: 5, bias: false}")).eval()
    blocks = [m for m in codec.modules() if isinstance(m, MyBlock)]
    assert len(blocks) == 4
    assert all(block.kernel_size == (5, 5) and block.bias is None for block in blocks)
    x = torch.rand(1, 3, 20, 30)
    expected = codec(x)["x_hat"].clamp(0, 1)
    torch.testing.assert_close(codec.decompress(**codec.compress(x))["x_hat"], expected)


@pytest.mark.usefixtures("own_layers")
def test_a_codec_with_a_registered_module_is_pickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "layers_to_pickle.py"
    file.write_text(
        "import tcm_lab\nimport torch\n\n\n"
        "@tcm_lab.register_block('pickled')\n"
        "class Pickled(torch.nn.Conv2d):\n"
        "    def __init__(self, channels: int, kernel: int = 3) -> None:\n"
        "        super().__init__(channels, channels, kernel, padding=kernel // 2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import_layers([file])
    codec = tcm_lab.build(_yaml(tmp_path, "{type: pickled, kernel: 5}"))
    written = pickle.dumps(codec)
    assert pickle.loads(written).config == codec.config
    BLOCKS.unregister("pickled")  # as in another process, which has not imported the file
    del sys.modules["layers_to_pickle"]
    assert pickle.loads(written).config.fingerprint == codec.config.fingerprint


@pytest.mark.usefixtures("own_layers")
def test_a_layer_may_convolve_in_three_dimensions(tmp_path: Path) -> None:
    @tcm_lab.register_block("across-channels")
    class AcrossChannels(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.conv = nn.Conv3d(1, 1, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(x[:, None])[:, 0]

    codec = tcm_lab.build(_yaml(tmp_path, "across-channels")).eval()
    x = torch.rand(1, 3, 20, 30)
    expected = codec(x)["x_hat"].clamp(0, 1)
    torch.testing.assert_close(codec.decompress(**codec.compress(x))["x_hat"], expected)


@pytest.mark.usefixtures("own_layers")
def test_a_module_without_a_formula_says_so_when_it_is_counted_by_formula(tmp_path: Path) -> None:
    @tcm_lab.register_block("no-formula")
    class Plain(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return x

    config = tcm_lab.load_config(_yaml(tmp_path, "no-formula"))
    with pytest.raises(NoFormula, match="no-formula"):
        tcm_lab.codec.part_costs(config, (64, 64))


@pytest.mark.usefixtures("own_layers")
def test_a_static_cost_of_a_module_is_its_closed_formula() -> None:
    @tcm_lab.register_block("linear-attention-in-short")
    class LinearAttention(nn.Module):
        def __init__(self, channels: int, head_dim: int = 8) -> None:
            super().__init__()
            self.head_dim = head_dim
            self.qkv = nn.Conv2d(channels, 3 * channels, 1)
            self.out = nn.Conv2d(channels, channels, 1)

        def forward(self, x: Tensor) -> Tensor:
            b, c, h, w = x.shape
            q, k, v = self.qkv(x).view(b, 3, c // self.head_dim, self.head_dim, h * w).unbind(1)
            seen = q.softmax(-2).transpose(-1, -2) @ (k.softmax(-1) @ v.transpose(-1, -2))
            return x + self.out(seen.transpose(-1, -2).reshape(b, c, h, w))

        @staticmethod
        def cost(channels: int, height: int, width: int, head_dim: int = 8) -> Cost:
            tokens = height * width
            products = Cost(
                {Kind.ATTENTION: 2 * tokens * channels * head_dim},
                {},
                channels * (head_dim + tokens),
            )
            return (
                conv_cost(channels, 3 * channels, 1, height, width)
                + products
                + conv_cost(channels, channels, 1, height, width)
            )

    block = {"type": "linear-attention-in-short", "head_dim": 4}
    tcm_lab.testing.check_layer(BLOCKS.parse(block))
    config = tcm_lab.load_config("tcm-nano").override({"g_*.block": block})
    formula, torchs = (
        tcm_lab.measure_complexity(config, size=(64, 64), counter=name)
        for name in ("formula", "torch")
    )
    for part in ("g_a", "g_s"):
        assert formula.parts[part].total_macs == torchs.parts[part].total_macs
        assert formula.parts[part].total_parameters == torchs.parts[part].total_parameters


@pytest.mark.usefixtures("own_layers")
def test_a_static_cost_with_other_arguments_is_refused_when_it_is_registered() -> None:
    class Wrong(nn.Module):
        def __init__(self, channels: int, kernel: int = 3) -> None:
            super().__init__()

        @staticmethod
        def cost(channels: int, height: int, width: int) -> Cost:
            return Cost()

    message = r"Wrong\.cost\(\) must take \(channels, height, width, kernel\)"
    with pytest.raises(ConfigError, match=message):
        tcm_lab.register_block("wrong")(Wrong)


@pytest.mark.usefixtures("own_layers")
def test_a_configuration_registered_in_five_lines_is_usable_from_yaml(tmp_path: Path) -> None:
    @tcm_lab.register_block("my-config")
    class MyConfig(tcm_lab.BlockConfig):
        groups: int = 1

        def check(self, channels: int) -> None:
            if channels % self.groups:
                raise ConfigError(f"groups = {self.groups} does not divide {channels}")

        def build(self, channels: int, index: int) -> nn.Module:
            return nn.Conv2d(channels, channels, 1, groups=self.groups)

        def cost(self, channels: int, height: int, width: int) -> Cost:
            return conv_cost(channels, channels, 1, height, width, groups=self.groups)

    path = _yaml(tmp_path, "{type: my-config, groups: 4}")
    config = tcm_lab.load_config(path)
    codec = tcm_lab.build(config)
    counted = sum(
        sum(c.parameters.values()) for c in tcm_lab.codec.part_costs(config, (64, 64)).values()
    )
    assert counted == sum(p.numel() for p in codec.parameters())
    assert config.override({"g_a.groups": 8}).g_a.stages[1].block == MyConfig(groups=8)
    with pytest.raises(ConfigError, match=r"g_a\.stages\.1\.block: groups = 5 does not divide 32"):
        config.override({"g_a.groups": 5})


@pytest.mark.usefixtures("own_layers")
def test_an_attention_module_and_a_resampler_register_the_same_way() -> None:
    @tcm_lab.register_attention("my-attention")
    class MyAttention(nn.Module):
        def __init__(self, channels: int, strength: float = 0.5) -> None:
            super().__init__()
            self.strength = strength

        def forward(self, x: Tensor) -> Tensor:
            return x * (1 + self.strength * torch.tanh(x))

    @tcm_lab.register_resampler("my-resampler")
    class MyResampler(tcm_lab.blocks.ResamplerConfig):
        def build(self, c_in: int, c_out: int, direction: Any) -> nn.Module:
            pick = nn.Conv2d(c_in, c_out, 1)
            if direction == "down":
                return nn.Sequential(nn.AvgPool2d(2), pick)
            return nn.Sequential(pick, nn.Upsample(scale_factor=2))

    codec = tcm_lab.build(
        "tcm-nano",
        {
            "?_?.resample": "my-resampler",
            "entropy_model.attention": {"type": "my-attention", "strength": 0.25},
        },
    ).eval()
    x = torch.rand(1, 3, 9, 9)
    expected = codec(x)["x_hat"].clamp(0, 1)
    torch.testing.assert_close(codec.decompress(**codec.compress(x))["x_hat"], expected)


@pytest.mark.usefixtures("own_layers")
def test_a_module_is_a_resampler_by_its_channels_direction_and_factor() -> None:
    given: list[tuple[str, int]] = []

    @tcm_lab.register_resampler("my-module")
    class MyResampler(nn.Sequential):
        def __init__(
            self, c_in: int, c_out: int, direction: str, factor: int = 2, kernel: int = 1
        ) -> None:
            given.append((direction, factor))
            pick = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)
            size = nn.AvgPool2d(2) if direction == "down" else nn.Upsample(scale_factor=2)
            super().__init__(pick, size)

    config = {"type": "my-module", "kernel": 3}
    codec = tcm_lab.build("tcm-nano", {"g_?.resample": config}).eval()
    assert sum(isinstance(module, MyResampler) for module in codec.modules()) == 8
    assert set(given) == {("down", 2), ("up", 2)}
    x = torch.rand(1, 3, 9, 9)
    assert codec(x)["x_hat"].shape == x.shape


@pytest.mark.usefixtures("own_layers")
def test_a_module_without_resampling_says_so_by_its_factor() -> None:
    @tcm_lab.register_resampler("my-projection")
    class MyProjection(nn.Conv2d):
        def __init__(self, c_in: int, c_out: int, factor: int = 1) -> None:
            assert factor == 1
            super().__init__(c_in, c_out, 1)

    config = RESAMPLERS.parse("my-projection")
    assert config.factor == 1
    assert isinstance(config.build(3, 8, "down"), MyProjection)


class NoChannels(nn.Module):
    def __init__(self, *, strength: float = 0.5) -> None: ...


class Strength(nn.Module):
    def __init__(self, strength: float = 0.5) -> None: ...


class OneWidth(nn.Module):
    def __init__(self, channels: int, kernel: int = 3) -> None: ...


class Hidden(nn.Module):
    def __init__(self, channels: int, *args: int, **options: int) -> None: ...


class PositionalOnly(nn.Module):
    def __init__(self, channels: int, kernel: int, /) -> None: ...


class Taking(nn.Module):
    def __init__(self, channels: int, norm: nn.Module) -> None: ...


class TakingAClass(nn.Module):
    def __init__(self, channels: int, act: type[nn.Module] = nn.GELU) -> None: ...


class Unknown(nn.Module):
    def __init__(self, channels: int, norm: "NotThere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


class Colliding(nn.Module):
    def __init__(self, channels: int, type: str = "a") -> None: ...


class WrongDefault(nn.Module):
    def __init__(self, channels: int, kernel: int = "three") -> None: ...  # type: ignore[assignment]


class NoBuild(tcm_lab.BlockConfig):
    kernel: int = 3


class OtherBuild(tcm_lab.BlockConfig):
    def build(self, channels: int) -> nn.Module:  # type: ignore[override]
        return nn.Identity()


class OtherCost(tcm_lab.BlockConfig):
    def build(self, channels: int, index: int) -> nn.Module:
        return nn.Identity()

    def cost(self, channels: int) -> Cost:  # type: ignore[override]
        return Cost()


REFUSED: list[tuple[Any, Any, str]] = [
    (tcm_lab.register_block, NoChannels, "constructor must take channels"),
    (tcm_lab.register_attention, NoChannels, "constructor must take channels"),
    (tcm_lab.register_block, Strength, "constructor must take channels"),
    (tcm_lab.register_resampler, OneWidth, "constructor must take c_in and c_out"),
    (tcm_lab.register_block, Hidden, r"takes \*args: int; name its arguments"),
    (tcm_lab.register_block, PositionalOnly, "'kernel' is positional-only"),
    (tcm_lab.register_block, Taking, "options cannot be read from YAML"),
    (tcm_lab.register_block, TakingAClass, "options cannot be written to YAML"),
    (tcm_lab.register_block, Unknown, "constructor cannot be read: name 'NotThere'"),
    (tcm_lab.register_block, Colliding, "argument 'type' cannot be an option"),
    (tcm_lab.register_block, WrongDefault, "have a default that is not valid: kernel = .three"),
    (tcm_lab.register_block, NoBuild, r"NoBuild must implement build\(\)"),
    (tcm_lab.register_block, OtherBuild, r"build\(\) must take \(self, channels, index\)"),
    (tcm_lab.register_block, OtherCost, r"cost\(\) must take \(self, channels, height, width\)"),
    (tcm_lab.register_block, dict, "dict is neither a BlockConfig nor a torch.nn.Module"),
    (tcm_lab.register_block, len, "len is neither a BlockConfig nor a torch.nn.Module"),
    (tcm_lab.register_attention, tcm_lab.BlockConfig, "neither an? AttentionConfig nor a"),
]


@pytest.mark.parametrize(("register", "cls", "message"), REFUSED, ids=lambda v: str(v)[:40])
def test_what_could_not_be_built_is_refused_when_it_is_registered(
    register: Any, cls: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"'odd': .*{message}") as raised:
        register("odd")(cls)
    assert "\n" not in str(raised.value)
    assert "odd" not in {*BLOCKS, *ATTENTIONS, *RESAMPLERS}


@pytest.mark.parametrize("name", ["", "my block", "3", "null", "Yes", "a: b", 3, None, OneWidth])
def test_a_name_that_yaml_would_not_read_as_one_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="name"):
        tcm_lab.register_block(name)


def test_a_configuration_without_build_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        NoBuild(type="odd")  # type: ignore[abstract]


def test_a_key_that_is_no_string_is_refused() -> None:
    with pytest.raises(ConfigError, match="tcm: 3 = 4: must be under a key that is a string"):
        BLOCKS.parse({"type": "tcm", 3: 4})


def test_a_name_that_is_taken_is_refused() -> None:
    taken = "the block name 'tcm' is taken by TcmConfig; register yours under another name"
    with pytest.raises(ConfigError, match=taken):
        tcm_lab.register_block("tcm")


def test_an_unknown_name_lists_the_near_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"no block is called 'swim'\. Did you mean swin"
    ) as raised:
        BLOCKS.parse("swim")
    assert all(name in str(raised.value) for name in BLOCKS)


def test_an_option_that_came_later_leaves_the_fingerprint_of_a_codec_without_it() -> None:
    config = tcm_lab.load_config("cheng2020-attn")
    tree = config.g_a.stages[0].model_dump(mode="json", context=FINGERPRINT)
    assert tree["block"] == tree["resample"] == {"type": "residual"}
    changed = config.override({"g_a.block.activation": "gelu"})
    assert changed.g_a.stages[0].model_dump(context=FINGERPRINT)["block"]["activation"] == "gelu"
    assert len({each.fingerprint for each in (config, changed)}) == 2


@pytest.mark.usefixtures("own_layers")
def test_a_set_has_one_order_and_one_fingerprint_in_every_process() -> None:
    @tcm_lab.register_block("several")
    class Several(nn.Conv2d):
        def __init__(
            self,
            channels: int,
            kernels: set[int] = {0, 8},  # noqa: B006 - which share a place in a set's table
            names: frozenset[str] = frozenset("abcdefghijklmnopqrst"),
        ) -> None:
            super().__init__(channels, channels, 1)

    own = {"type": "several", "kernels": [8, 0]}
    assert BLOCKS.parse("several").model_dump(mode="json")["names"] == list("abcdefghijklmnopqrst")
    changes: list[dict[str, Any]] = [{"g_a.block": each} for each in ("several", own)]
    first, second = (tcm_lab.load_config("tcm-nano").override(each) for each in changes)
    assert first.fingerprint == second.fingerprint


@pytest.mark.usefixtures("own_layers")
@pytest.mark.parametrize("factor", [0, -2])
def test_a_factor_that_is_none_is_refused_when_it_is_registered(factor: int) -> None:
    class Nothing(nn.Conv2d):
        def __init__(self, c_in: int, c_out: int, factor: int = factor) -> None:
            super().__init__(c_in, c_out, 1)

    with pytest.raises(ConfigError, match=rf"Nothing's factor = {factor} must be at least 1"):
        tcm_lab.register_resampler("nothing")(Nothing)

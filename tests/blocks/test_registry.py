from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tcm_lab
from tcm_lab.blocks import BLOCKS, NoFormula
from tcm_lab.blocks.cost import Cost, conv_cost
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
            if direction == "analysis":
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


def test_a_name_that_is_taken_is_refused() -> None:
    taken = "the block name 'tcm' is taken by TcmConfig; register yours under another name"
    with pytest.raises(ConfigError, match=taken):
        tcm_lab.register_block("tcm")


def test_a_class_that_is_no_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match="'odd': dict is neither a BlockConfig nor a"):
        tcm_lab.register_block("odd")(dict)
    assert "odd" not in BLOCKS


def test_an_unknown_name_lists_the_near_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"no block is called 'swim'\. Did you mean swin"
    ) as raised:
        BLOCKS.parse("swim")
    assert all(name in str(raised.value) for name in BLOCKS)

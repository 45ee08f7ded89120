"""What every registered block, attention module and resampler keeps; registering is enlisting."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tcm_lab.blocks import ATTENTIONS, BLOCKS, RESAMPLERS, Cost, LayerConfig, LayerRegistry
from tcm_lab.errors import ConfigError

SIZES = [(1, 1), (7, 5), (8, 8), (17, 9)]
CHANNELS = 32

KEEPING = [(registry, name) for registry in (BLOCKS, ATTENTIONS) for name in registry]
RESAMPLING = [(name, way) for name in RESAMPLERS for way in ("down", "up")]
REGISTERED = [*KEEPING, *((RESAMPLERS, name) for name in RESAMPLERS)]


def _layers(registry: LayerRegistry[Any], name: str) -> list[nn.Module]:
    """Build a layer in every way that a codec builds it."""
    config = registry.parse(name)
    if registry is BLOCKS:
        return [config.build(CHANNELS, index) for index in (0, 1)]
    if registry is ATTENTIONS:
        return [config.build(CHANNELS)]
    c_out = CHANNELS if name == "none" else CHANNELS // 2
    return [config.build(CHANNELS, c_out, way) for way in ("down", "up")]


def _parameters(cost: Cost) -> int:
    return sum(cost.parameters.values())


@pytest.mark.parametrize(("registry", "name"), KEEPING)
def test_a_block_keeps_channels_and_size_and_reaches_every_parameter(
    registry: LayerRegistry[Any], name: str
) -> None:
    for layer in _layers(registry, name):
        for height, width in SIZES:
            x = torch.randn(2, CHANNELS, height, width)
            assert layer(x).shape == x.shape
        # Where there is one position only, attention has nothing to choose from; use the last.
        _assert_gradients_reach_everything(layer, x.requires_grad_())


@pytest.mark.parametrize(("name", "way"), RESAMPLING)
def test_a_resampler_changes_the_size_by_its_factor_and_reaches_every_parameter(
    name: str, way: Any
) -> None:
    config = RESAMPLERS.parse(name)
    c_out = CHANNELS if name == "none" else CHANNELS // 2
    layer = config.build(CHANNELS, c_out, way)
    f = config.factor
    for height, width in SIZES:
        x = torch.randn(2, CHANNELS, height, width)
        size = (-(-height // f), -(-width // f)) if way == "down" else (f * height, f * width)
        assert layer(x).shape == (2, c_out, *size)
    _assert_gradients_reach_everything(layer, x.requires_grad_())


def _assert_gradients_reach_everything(layer: nn.Module, x: Tensor) -> None:
    out = layer(x)
    (out * torch.randn_like(out)).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().min() > 0
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(("registry", "name"), REGISTERED)
def test_weights_survive_a_safetensors_file(
    registry: LayerRegistry[Any], name: str, tmp_path: Path
) -> None:
    for layer, other in zip(_layers(registry, name), _layers(registry, name), strict=True):
        save_file(layer.state_dict(), tmp_path / "layer.safetensors")
        other.load_state_dict(load_file(tmp_path / "layer.safetensors"))
        x = torch.randn(1, CHANNELS, 6, 10)
        assert torch.equal(layer(x), other(x))


@pytest.mark.parametrize(("registry", "name"), REGISTERED)
def test_the_formula_gives_the_number_of_parameters(
    registry: LayerRegistry[Any], name: str
) -> None:
    config = registry.parse(name)
    c_out = CHANNELS if name == "none" else CHANNELS // 2
    for layer, way in zip(_layers(registry, name), ("down", "up"), strict=False):
        cost = (
            config.cost(CHANNELS, c_out, way, 8, 8)
            if registry is RESAMPLERS
            else config.cost(CHANNELS, 8, 8)
        )
        assert _parameters(cost) == sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize(("registry", "name"), REGISTERED)
def test_a_configuration_comes_back_from_yaml(registry: LayerRegistry[Any], name: str) -> None:
    config: LayerConfig = registry.parse(name)
    assert config.type == name
    text = yaml.safe_dump(config.model_dump(mode="json"))
    assert registry.parse(yaml.safe_load(text)) == config


@pytest.mark.parametrize(("registry", "name"), REGISTERED)
def test_an_option_that_does_not_exist_is_refused_by_name(
    registry: LayerRegistry[Any], name: str
) -> None:
    with pytest.raises(ConfigError, match=f"{name}: unknown field 'no_such_option'"):
        registry.parse({"type": name, "no_such_option": 1})

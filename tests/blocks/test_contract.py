"""What every registered block, attention module and resampler keeps; registering is enlisting."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tcm_lab
from tcm_lab.blocks import ATTENTIONS, BLOCKS, RESAMPLERS, Cost, LayerRegistry, conv_cost
from tcm_lab.errors import ConfigError
from tcm_lab.testing import LayerError, check_layer

CHANNELS = 32
REGISTERED = [
    (registry, name) for registry in (BLOCKS, ATTENTIONS, RESAMPLERS) for name in registry
]


def _layers(registry: LayerRegistry[Any], name: str) -> list[nn.Module]:
    """Build a layer in every way that a codec builds it."""
    config = registry.parse(name)
    if registry is BLOCKS:
        return [config.build(CHANNELS, index) for index in (0, 1)]
    if registry is ATTENTIONS:
        return [config.build(CHANNELS)]
    c_out = CHANNELS if name == "none" else CHANNELS // 2
    return [config.build(CHANNELS, c_out, way) for way in ("down", "up")]


@pytest.mark.parametrize(("registry", "name"), REGISTERED)
def test_a_registered_layer_keeps_what_codecs_rely_on(
    registry: LayerRegistry[Any], name: str
) -> None:
    check_layer(name, kind=registry.kind, channels=CHANNELS)
    assert registry.parse(name).type == name


@pytest.mark.parametrize(("registry", "name"), REGISTERED)
def test_a_layer_s_output_depends_on_every_value_of_its_input(
    registry: LayerRegistry[Any], name: str
) -> None:
    for layer in _layers(registry, name):
        x = torch.randn(2, CHANNELS, 17, 9, requires_grad=True)
        out = layer(x)
        (out * torch.randn_like(out)).sum().backward()
        assert x.grad is not None
        assert x.grad.abs().min() > 0


@pytest.mark.parametrize(("registry", "name"), REGISTERED)
def test_an_option_that_does_not_exist_is_refused_by_name(
    registry: LayerRegistry[Any], name: str
) -> None:
    with pytest.raises(ConfigError, match=f"{name}: unknown field 'no_such_option'"):
        registry.parse({"type": name, "no_such_option": 1})


@pytest.mark.parametrize(
    ("registry", "options"),
    [
        (RESAMPLERS, {"type": "conv", "kernel": 2}),
        (RESAMPLERS, {"type": "conv", "kernel": 4, "activation": "gdn"}),
        (BLOCKS, {"type": "partial-conv", "share": 1.0, "kernel": 5}),
        (BLOCKS, {"type": "partial-conv", "share": 0.01}),
        (BLOCKS, {"type": "partial-conv", "mlp_ratio": 0.01}),
        (BLOCKS, {"type": "depthwise-conv", "mlp_ratio": 0.01}),
        (BLOCKS, {"type": "gated-stage", "mlp_ratio": 0.01}),
        (ATTENTIONS, {"type": "overlapped-windows", "mlp_ratio": 0.01}),
    ],
)
def test_a_layer_keeps_that_with_other_options_too(
    registry: LayerRegistry[Any], options: dict[str, Any]
) -> None:
    check_layer(registry.parse(options), channels=CHANNELS)


@pytest.mark.parametrize(("registry", "name"), REGISTERED)
def test_the_narrowest_layer_with_the_smallest_options_is_built_and_counted(
    registry: LayerRegistry[Any], name: str
) -> None:
    least = {"head_dim": 1, "mlp_ratio": 1e-3, "width": 1, "split": 1.0, "squeeze": 1}
    known = type(registry.parse(name)).model_fields
    options = {option: value for option, value in least.items() if option in known}
    if name == "dictionary":
        options["mlp_ratio"] = 1  # a whole number there
    config = registry.parse({"type": name, **options})
    x = torch.rand(1, 1, 9, 7, requires_grad=True)
    for way in ("down", "up") if registry is RESAMPLERS else (None,):
        arguments = (1,) if way is None else (1, 1, way)
        config.check(*arguments[:2])
        layer = config.build(*arguments, *([1] if registry is BLOCKS else []))
        layer(x).sum().backward()
        counted = config.cost(*arguments, 9, 7).total_parameters
        assert counted == sum(parameter.numel() for parameter in layer.parameters())
        assert all(parameter.numel() for parameter in layer.parameters())


def test_an_even_kernel_is_refused_where_it_would_need_a_centre() -> None:
    for options in ({"stride": 1}, {"upsample": "subpixel"}):
        with pytest.raises(ConfigError, match=r"kernel = 4 is even, .*; 3 or 5 would work"):
            RESAMPLERS.parse({"type": "conv", "kernel": 4, **options})


class Good(nn.Conv2d):
    def __init__(self, channels: int, scale: float = 1.0) -> None:
        super().__init__(channels, channels, 1)
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:
        return self.scale * super().forward(input)


class Shrinking(Good):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)[..., :8]


class Wanting(Good):
    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.pad(super().forward(input), (4, 4, 0, 0), mode="reflect")[..., 4:-4]


class Unused(Good):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.spare = nn.Parameter(torch.ones(1))


class Forgetful(Good):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.mask = torch.rand(1)  # a plain attribute, which no state dict holds

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.mask.to(input.device)


class Failing(Good):
    def __init__(self, channels: int) -> None:
        raise KeyError("missing")


class WithFormula(tcm_lab.BlockConfig):
    kernel: int = 3
    formula_kernel: int = 3
    times: int = 1

    def build(self, channels: int, index: int) -> nn.Module:
        return nn.Conv2d(channels, channels, self.kernel, padding=self.kernel // 2)

    def cost(self, channels: int, height: int, width: int) -> Cost:
        one = conv_cost(channels, channels, self.formula_kernel, height, width)
        return Cost({kind: self.times * n for kind, n in one.macs.items()}, one.parameters)


@pytest.mark.usefixtures("own_layers")
def test_a_good_layer_of_a_user_s_own_passes_with_or_without_a_formula() -> None:
    tcm_lab.register_block("good")(Good)
    config = tcm_lab.register_block("with-formula")(WithFormula)
    check_layer("good", channels=5)
    check_layer("with-formula", channels=5)
    check_layer(config(type="with-formula", kernel=5, formula_kernel=5))


@pytest.mark.usefixtures("own_layers")
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Shrinking, r"gives \(2, 32, 17, 8\) on \(2, 32, 17, 9\) instead of \(2, 32, 17, 9\)"),
        (Wanting, r"forward\(\) fails on \(2, 32, 1, 1\) with RuntimeError"),
        (Unused, "no gradient reaches spare"),
        (Forgetful, "computes something else after its weights are saved and loaded"),
        (Failing, r"build\(\) fails with KeyError"),
    ],
)
def test_what_is_wrong_with_a_layer_is_named(layer: type[nn.Module], message: str) -> None:
    tcm_lab.register_block("mine")(layer)
    with pytest.raises(LayerError, match=f"block 'mine': {message}"):
        check_layer("mine")


@pytest.mark.usefixtures("own_layers")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        # Two blocks on 20 x 36 positions, twice: 2 · 720 · 32² · 9 MACs too many.
        ({"times": 2}, r"cost\(\) gives 37,324,800 MACs of kind convolution .* counts 24,053,760"),
        ({"formula_kernel": 1}, r"cost\(\) gives [\d,]+ parameters of kind convolution"),
    ],
)
def test_a_formula_that_is_wrong_is_named_with_both_numbers(
    options: dict[str, int], message: str
) -> None:
    config = tcm_lab.register_block("with-formula")(WithFormula)
    with pytest.raises(LayerError, match=f"block 'with-formula': {message}"):
        check_layer(config(type="with-formula", **options))


@pytest.mark.usefixtures("own_layers")
def test_a_resampler_for_one_direction_is_checked_in_that_direction() -> None:
    @tcm_lab.register_resampler("pool")
    class Pool(nn.Sequential):
        def __init__(self, c_in: int, c_out: int) -> None:
            super().__init__(nn.Conv2d(c_in, c_out, 1), nn.AvgPool2d(2, ceil_mode=True))

    check_layer("pool", direction="down")
    with pytest.raises(LayerError, match=r"resampler 'pool': gives .* \(up\) on"):
        check_layer("pool")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "several layers have the name 'none'; give kind"),
        ("nothing", "no registered layer"),
    ],
)
def test_a_name_of_several_layers_or_none_is_refused(name: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        check_layer(name)


def test_the_check_needs_no_pytest() -> None:
    code = "import sys, tcm_lab.testing; assert 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

"""What every preset keeps; a YAML file in the presets' folder is enlisted by being there.

The presets as they are are built without memory for their weights. What has to be computed is
computed by the same tree with all its widths divided by eight, or by the laptop family itself.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

import tcm_lab
from tcm_lab._compat.torchvision import import_compressai
from tcm_lab.codec import REFERENCE_MODELS, VariantConfig, part_costs, preset_names

#: Fields that hold widths, and those that hold lists of them.
_WIDTHS = ("width", "latent_channels", "hyper_channels", "head_dim", "squeeze")
_LISTS = ("hidden", "slices")


def narrowed(config: VariantConfig) -> VariantConfig:
    """Return the same architecture with every width divided by eight, if it is wide."""
    if config.latent_channels < 100:
        return config

    def shrink(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {k: shrink(k, v) for k, v in value.items()}
        if isinstance(value, list):
            return [max(v // 8, 1) if key in _LISTS else shrink("", v) for v in value]
        if key in _WIDTHS and isinstance(value, int):
            return max(value // 8, 1)
        return value

    return VariantConfig.parse(shrink("", config.model_dump(mode="json")))


def _small(name: str) -> Any:
    codec = tcm_lab.build(narrowed(tcm_lab.load_config(name)))
    with torch.no_grad():
        for transform in (codec.g_a, codec.h_a):
            for parameter in transform.stages[-1].resample.parameters():
                parameter.mul_(10)  # or nearly every symbol is zero
    return codec


def _rate(config: VariantConfig) -> float | None:
    return 0.5 if config.rate_levels else None


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_comes_back_from_yaml(name: str) -> None:
    config = tcm_lab.load_config(name)
    assert config.name == name
    text = yaml.safe_dump(config.model_dump(mode="json"))
    assert VariantConfig.parse(yaml.safe_load(text)) == config


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_built_without_memory_and_has_as_many_parameters_as_the_formula_says(
    name: str,
) -> None:
    codec = tcm_lab.build(name, device="meta")
    assert {value.device.type for value in codec.state_dict().values()} == {"meta"}
    counted = sum(
        sum(cost.parameters.values())
        for cost in part_costs(tcm_lab.load_config(name), (512, 768)).values()
    )
    assert counted == sum(parameter.numel() for parameter in codec.parameters())


@pytest.mark.parametrize("name", preset_names())
def test_gradients_reach_every_parameter_of_a_preset(name: str) -> None:
    codec = _small(name).train()
    parameters: list[Tensor] = []
    # The bits themselves give some scales no gradient at their lower bound, as they should.
    codec.gaussian_conditional.register_forward_pre_hook(lambda m, i: parameters.extend(i[1:]))
    x = torch.rand(2, 3, 65, 70)
    out = codec(x, _rate(codec.config))
    assert out["x_hat"].shape == x.shape
    reached = [out["x_hat"], *parameters, out["likelihoods"]["z"].log()]
    loss = sum((value * torch.randn_like(value)).sum() for value in reached) + codec.aux_loss()
    loss.backward()
    assert not [
        name
        for name, parameter in codec.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().max() > 0
    ]


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_decodes_what_its_forward_pass_shows_and_so_does_its_saved_copy(
    name: str, tmp_path: Path
) -> None:
    codec = _small(name).eval()
    tcm_lab.save_checkpoint(codec, tmp_path / "codec.safetensors")
    copy = tcm_lab.load_checkpoint(tmp_path / "codec.safetensors")
    assert copy.config == codec.config
    for size in ((1, 1), (37, 75)):
        x = torch.rand(1, 3, *size)
        with torch.no_grad():
            forward = codec(x, _rate(codec.config))["x_hat"].clamp(0, 1)
        coded = codec.compress(x, _rate(codec.config))
        assert (codec.decompress(**coded)["x_hat"] - forward).abs().max() <= 1e-4
        assert copy.compress(x, _rate(codec.config)) == coded
    coded = codec.compress(x, _rate(codec.config), portable=True)
    here, there = (each.decompress(**coded)["x_hat"] for each in (codec, copy))
    assert here.shape == x.shape
    assert torch.equal(here, there)


@pytest.mark.parametrize("side", ["g_a", "g_s", "h_a", "h_s"])
@pytest.mark.parametrize(("split", "absent"), [(0.0, "swin"), (1.0, "conv")])
def test_at_either_end_of_the_split_the_other_branch_is_not_built(
    side: str, split: float, absent: str
) -> None:
    codec = tcm_lab.build("tcm-nano", {f"{side}.split": split})
    names = [name for name, _ in codec.named_parameters() if name.startswith(f"{side}.")]
    assert not [name for name in names if re.search(rf"\.blocks\.\d\.{absent}\.", name)]
    present = {"swin": "conv", "conv": "swin"}[absent]
    assert [name for name in names if re.search(rf"\.blocks\.\d\.{present}\.", name)]


def test_a_sequential_block_costs_what_the_parallel_one_costs() -> None:
    parallel = part_costs(tcm_lab.load_config("tcm-small"), (256, 256))
    assert part_costs(tcm_lab.load_config("tcm-sequential"), (256, 256)) == parallel


def test_the_laptop_codec_keeps_to_its_budget() -> None:
    costs = part_costs(tcm_lab.load_config("tcm-nano"), (512, 768)).values()
    assert sum(sum(cost.parameters.values()) for cost in costs) <= 1_500_000
    assert sum(sum(cost.macs.values()) for cost in costs) / (512 * 768) <= 60_000


@pytest.mark.parametrize("name", tcm_lab.list_models("*-nano"))
def test_every_codec_for_a_laptop_is_small(name: str) -> None:
    costs = part_costs(tcm_lab.load_config(name), (512, 768)).values()
    assert sum(cost.total_parameters for cost in costs) <= 2_000_000
    assert sum(cost.total_macs for cost in costs) / (512 * 768) <= 80_000


def test_the_same_seed_gives_the_same_weights_and_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    a, b, c = (tcm_lab.build("tcm-nano", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [codec.g_a.stages[0].resample.conv1.weight for codec in (a, b, c)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_building_does_not_begin_a_gpu_s_random_numbers_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", begun.append)
    torch.manual_seed(5)
    assert begun == [5]  # so torch seeds every GPU
    tcm_lab.build("tcm-nano", {"?_?.depth": 0})
    assert begun == [5]


def test_every_image_model_of_compressai_is_listed() -> None:
    zoo = import_compressai().zoo.image_models
    fixed_rate = {name for name in zoo if not name.endswith("-vbr")}
    without_quality = {"cheng2020-anchor-checkerboard", "elic2022-chandelier", "elic2022-official"}
    assert set(REFERENCE_MODELS) == fixed_rate | without_quality


@pytest.mark.parametrize("name", ["bmshj2018-factorized", "mbt2018-mean", "elic2022-official"])
def test_compressai_s_own_models_are_built_untouched(name: str) -> None:
    assert f"compressai/{name}" in tcm_lab.list_models("compressai/*")
    reference_model = tcm_lab.build(f"compressai/{name}")
    from compressai.registry import MODELS
    from compressai.zoo import image_models

    theirs = image_models[name](quality=4) if name in image_models else MODELS[name]()
    assert type(reference_model) is type(theirs)
    assert [(n, v.shape) for n, v in reference_model.state_dict().items()] == [
        (n, v.shape) for n, v in theirs.state_dict().items()
    ]

"""One set of weights for several codecs: what is whose, and what cannot be shared."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tcm_lab.codec import (
    VariantConfig,
    build,
    check_shared,
    extents_of,
    joined_extents,
    load_config,
    part_of,
    put_part,
    shared_names,
)
from tcm_lab.errors import ConfigError

NANO = load_config("tcm-nano").override({"h_*.depth": 1, "entropy_model.slices": 2})
#: Where nothing crosses the channels, so that what is zero changes nothing.
NESTED = {
    "g_s.depth": 1,
    "g_a.depth": 0,
    "entropy_model.support": 0,
    "entropy_model.hidden": [16, 16],
    "hyper_channels": 24,
    "g_s.mlp_ratio": 2,
}
CROSSING = {
    "g_a.split": 0.25,
    "g_s.split": 0,
    "g_a.window_size": 4,
    "g_s.width": 16,
    "entropy_model.attention.squeeze": 8,
}


def _random(config: VariantConfig) -> dict[str, torch.Tensor]:
    extents = extents_of(build(config))
    return {name: torch.randn([extent.size for extent in own]) for name, own in extents.items()}


@pytest.mark.parametrize("change", [NESTED, CROSSING])
def test_what_is_put_is_what_is_taken(change: dict[str, Any]) -> None:
    configs = NANO, NANO.override(change)
    several = [extents_of(build(config)) for config in configs]
    whole = joined_extents(several)
    for own, values in zip(several, map(_random, configs), strict=True):
        for name, value in values.items():
            shared = torch.zeros([extent.size for extent in whole[name]])
            put_part(shared, value, own[name], whole[name])
            assert torch.equal(part_of(shared, own[name], whole[name]), value), name
            assert shared.count_nonzero() == value.count_nonzero()


@pytest.mark.parametrize(
    ("base", "change"), [(NANO, NESTED), (NANO.override({"g_*.split": 0}), {"g_*.width": 16})]
)
def test_a_codec_whose_other_weights_are_zero_computes_what_its_part_does(
    base: VariantConfig, change: dict[str, Any]
) -> None:
    small, large = build(base.override(change)).eval(), build(base).eval()
    own, whole = extents_of(small), extents_of(large)
    state = {n: torch.zeros_like(v) for n, v in large.state_dict().items() if n in whole}
    for name, value in small.state_dict().items():
        if name in own:
            put_part(state[name], value, own[name], whole[name])
    large.load_state_dict(state, strict=False)
    x = torch.rand(1, 3, 64, 128)
    with torch.no_grad():
        assert torch.allclose(small(x)["x_hat"], large(x)["x_hat"], atol=1e-5)


def test_parts_are_whole_heads_the_middle_of_a_window_and_both_ends_of_a_mixture() -> None:
    large = build(NANO)
    small = NANO.override({"g_a.split": 0.25, "g_a.window_size": 4})
    own = extents_of(build(small))
    whole = joined_extents([extents_of(large), own])
    assert whole["g_a.stages.0.blocks.0.mix_in.weight"][0].groups == (24, 16)
    state = large.state_dict()

    def part(name: str) -> torch.Tensor:
        return part_of(state[name], own[name], extents_of(large)[name])

    swin = "g_a.stages.0.blocks.0.swin.attention"
    qkv = state[f"{swin}.qkv.weight"]
    first_heads = torch.cat([qkv[start : start + 8, :8] for start in (0, 16, 32)])
    assert torch.equal(part(f"{swin}.qkv.weight"), first_heads)
    table = state[f"{swin}.relative_position_bias"]
    assert torch.equal(part(f"{swin}.relative_position_bias"), table[:1, 4:11, 4:11])


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"g_a.stages.1.block": "residual"}, "g_a.stages.1.blocks.type=residual"),
        ({"g_s.stages.0.head_dim": 16}, "g_s.stages.0.blocks.head_dim=16."),
        ({"entropy_model.slices": 4}, "slices.slices=4."),
        ({"entropy_model.lrp": "none"}, "slices.lrp=none."),
        ({"entropy_model.hidden": [32]}, "slices.hidden=1."),
        ({"entropy_model.slices": [16, 48]}, "slices.slices=(16, 48)."),
        ({"entropy_model": {"type": "dictionary", "slices": 4}}, "context_model.type=dictionary"),
        ({"entropy_model.attention": "window-attention"}, "slices.0.attention.type=window-attent"),
        ({"entropy_model.attention": "none"}, None),  # lacks some, and shares what it has
    ],
)
def test_options_that_are_no_parts_of_the_largest_have_weights_of_their_own(
    change: dict[str, Any], place: str | None
) -> None:
    names = shared_names(build(NANO.override(change), device="meta"), NANO)
    moved = {name: to for name, to in names.items() if name != to}
    assert bool(moved) == (place is not None)
    if place is not None:
        module = place.partition("=")[0].rpartition(".")[0]
        own = {name for name in names if name.startswith(f"{module}.")}
        assert own
        assert own <= moved.keys()
        assert all(moved[name].startswith(place) for name in own)
        assert {name.split(".")[0] for name in moved.keys() - own} <= {"slices"}  # of other slices


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"shortcut": "patch"}, "shortcut"),
        ({"latent_channels": 32}, "latent_channels"),
        ({"rate_levels": 4}, "rate_levels"),
        ({"g_a.stages.0.resample": "patch", "g_s.stages.3.resample": "patch"}, None),
    ],
)
def test_what_cannot_be_shared_is_named(change: dict[str, Any], field: str | None) -> None:
    configs = [NANO, NANO.override(change)]
    if field is None:
        check_shared(configs)
        return
    with pytest.raises(ConfigError, match=f"^{field}: .*serves one latent_channels, rate_levels"):
        check_shared(configs)


def test_gates_subbands_and_overlapping_windows_lie_in_groups() -> None:
    change = {"shortcut": "wavelet", "g_*.block": {"type": "gated-stage", "head_dim": 8}}
    base = NANO.override(change)
    small = base.override({"g_*.width": 16})
    check_shared([base, small])
    own, whole = (extents_of(build(c)) for c in (small, base))
    assert own["g_a.wavelet.1.weight"][1].groups == (16,) * 4
    assert whole["g_s.wavelet.0.bias"][0].groups == (32,) * 4
    assert own["g_a.stages.0.blocks.0.layers.0.glu.expand.bias"][0].groups == (32, 32)

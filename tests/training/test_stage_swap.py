"""Swaps: which stages turn one codec into another, and their training against the parent's."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_in import RandomCrops

from tcm_lab.codec import Codec, build, load_config
from tcm_lab.errors import ConfigError, LabError
from tcm_lab.training import (
    MatchingLoss,
    Recipe,
    self_swap,
    splice,
    start_swap,
    swaps_of,
    train_swap,
)

PARENT = load_config("tcm-nano").override(
    {"rate_levels": 2, "g_*.depth": 1, "h_*.depth": 1, "entropy_model.slices": 2}
)
RECIPE = Recipe(lambdas=(0.002, 0.02), steps=4, batch=1, crop=64, lr=1e-3, optimizer="muon")
STAGES = [f"{name}.stages.{i}" for name in ("g_a", "g_s") for i in range(3)]


@pytest.fixture(scope="module")
def parent() -> Codec:
    codec: Codec = build(PARENT, seed=3)
    return codec.eval()


@pytest.mark.parametrize(
    ("change", "places"),
    [
        ({}, []),
        ({"g_a.stages.1.split": 0}, ["g_a.stages.1"]),
        ({"g_*.window_size": 4}, STAGES),
        ({"g_a.stages.1.width": 16}, ["g_a.stages.1-2"]),
        ({"g_a.width": 16}, ["g_a.stages.0-3"]),
        ({"h_s.window_size": 2}, ["h_s.stages.0"]),
        ({"hyper_channels": 16}, ["hyperprior"]),
        ({"entropy_model.support": 0, "g_s.stages.0.depth": 2}, ["g_s.stages.0", "entropy_model"]),
        ({"entropy_model": "dictionary"}, ["entropy_model"]),
        ({"entropy_model.support": 2}, []),  # of two slices, none sees more than one
    ],
)
def test_a_variant_is_the_parent_with_other_stages(
    change: dict[str, Any], places: list[str]
) -> None:
    if change.get("entropy_model") == "dictionary":
        change = {"entropy_model": {"type": "dictionary", "normalised": True, "slices": 2}}
    variant = PARENT.override(change)
    swaps = swaps_of(PARENT, variant)
    assert [swap.place for swap in swaps] == places
    trees = [swap.config.model_dump(exclude={"name"}) for swap in swaps]
    whole = PARENT.model_dump(exclude={"name"})
    for tree in trees:
        for name, value in tree.items():
            whole[name] = value if name not in ("g_a", "g_s") else whole[name]
    for name in ("g_a", "g_s"):
        before = PARENT.model_dump()[name]["stages"]
        whole[name] = {
            "stages": tuple(
                next((t[name]["stages"][i] for t in trees if t[name]["stages"][i] != own), own)
                for i, own in enumerate(before)
            )
        }
    assert type(variant).parse(whole | {"name": "x"}).fingerprint == variant.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_channels": 32}, "latent_channels = 32: the parent has 64"),
        ({"shortcut": "patch"}, "shortcut = 'patch': the parent has 'staged'"),
        ({"entropy_model.normalised": False}, "entropy_model.normalised = False"),
    ],
)
def test_what_no_stage_is_part_of_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        swaps_of(PARENT, PARENT.override(change))


def test_a_parent_matches_itself_and_an_untrained_stage_does_not(parent: Codec) -> None:
    change = {"g_*.window_size": 4, "h_a.window_size": 2, "h_s.window_size": 2}
    x, levels = torch.rand(2, 3, 64, 64), torch.tensor([0, 1])
    swaps = swaps_of(PARENT, PARENT.override(change))
    assert {span.transform for swap in swaps for span in swap.spans} == {
        "g_a", "g_s", "h_a", "h_s.mean", "h_s.scale",
    }  # fmt: skip
    for swap in swaps:
        own = MatchingLoss(parent, parent, swap.spans)
        assert own(x, levels)["total"] < 1e-6
        begun = start_swap(parent, swap, x)
        assert MatchingLoss(begun, parent, swap.spans)(x, levels)["total"] > 1e-3
        rest = [n for n in begun.state_dict() if not n.startswith(swap.trained)]
        ours, theirs = begun.state_dict(), parent.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in rest)


def test_a_chain_of_wavelets_is_matched_too() -> None:
    config = PARENT.override({"shortcut": "wavelet"})
    codec = build(config).eval()
    for swap in swaps_of(config, config.override({"g_*.depth": 2})):
        assert (
            MatchingLoss(codec, codec, swap.spans)(torch.rand(1, 3, 64, 64), torch.tensor([1]))[
                "total"
            ]
            < 1e-6
        )
    whole = swaps_of(config, config.override({"g_a.stages.0.width": 16}))
    assert [swap.place for swap in whole] == ["g_a"]


@pytest.mark.parametrize("change", [{"hyper_channels": 16}, {"entropy_model.support": 0}])
def test_a_swap_trains_its_place_alone(
    parent: Codec, change: dict[str, Any], tmp_path: Path
) -> None:
    (swap,) = swaps_of(PARENT, PARENT.override(change))
    own = self_swap(swap, PARENT)
    assert own.config.fingerprint == PARENT.fingerprint
    for each in (swap, own)[: 1 + ("hyper_channels" not in change)]:
        codec = train_swap(
            parent,
            each,
            RECIPE,
            RandomCrops(64),
            match_steps=1,
            steps=1,
            directory=tmp_path / each.config.fingerprint,
            accelerator="cpu",
        )
        moved = {
            name
            for name, value in codec.named_parameters()
            if name not in parent.state_dict()
            or value.shape != parent.state_dict()[name].shape
            or not torch.equal(value, parent.state_dict()[name])
        }
        assert moved
        assert all(name.startswith(each.trained) for name in moved)


def test_an_interrupted_swap_ends_at_the_same_weights(parent: Codec, tmp_path: Path) -> None:
    (swap,) = swaps_of(PARENT, PARENT.override({"g_s.stages.2.split": 0}))

    def trained(folder: str, crops: RandomCrops) -> Codec:
        return train_swap(
            parent, swap, RECIPE, crops, match_steps=2, steps=2, directory=tmp_path / folder,
            accelerator="cpu",
        )  # fmt: skip

    whole = trained("whole", RandomCrops(64))
    with pytest.raises(KeyboardInterrupt):
        trained("cut", RandomCrops(64, signal_at=(1, signal.SIGINT)))
    again = trained("cut", RandomCrops(64)).state_dict()
    assert all(torch.equal(again[name], v) for name, v in whole.named_parameters())


def test_swaps_at_several_places_make_one_codec(parent: Codec) -> None:
    variant = PARENT.override({"g_a.stages.0.split": 0, "entropy_model.support": 0})
    swaps = swaps_of(PARENT, variant)
    begun = [start_swap(parent, swap, torch.rand(1, 3, 64, 64), seed=9) for swap in swaps]
    parts = [(swap, codec.state_dict()) for swap, codec in zip(swaps, begun, strict=True)]
    codec = splice(parent, variant, parts)
    assert codec.config == variant
    ours = codec.state_dict()
    for swap, each in zip(swaps, begun, strict=True):
        theirs = each.state_dict()
        assert all(torch.equal(ours[n], theirs[n]) for n in theirs if n.startswith(swap.trained))
    with pytest.raises(LabError, match="another of the swaps trains"):
        splice(parent, variant, [*parts, parts[0]])


def test_a_new_stage_starts_as_the_shortcut_beside_it(parent: Codec) -> None:
    (swap,) = swaps_of(PARENT, PARENT.override({"g_a.stages.1.depth": 2}))
    x = torch.rand(1, 3, 64, 64)
    codec = start_swap(parent, swap, x)
    with torch.no_grad():
        between = codec.g_a.stages[0](x)
        assert torch.equal(between, parent.g_a.stages[0](x))
        assert torch.allclose(codec.g_a.stages[1](between), parent.g_a.stages[1].shortcut(between))

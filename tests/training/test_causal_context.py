"""CCA's loss: what its gradient asks of either side, what it moves, and that it leaves no trace."""

import csv
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from safetensors.torch import load_file
from stand_in import RandomCrops, TinyCodec
from torch import Tensor

import tcm_lab
from tcm_lab.codec import Codec, bits, build, load_config
from tcm_lab.errors import ConfigError
from tcm_lab.study import load_space
from tcm_lab.training import Recipe, train
from tcm_lab.training.causal_context import CausalContext, check_cca
from tcm_lab.training.loop import TrainingLoop

CHAINS = ["tcm-nano", "dcae-nano", "mlicpp-nano"]
RECIPE = Recipe(lambdas=(0.01,), steps=4, batch=2, crop=64, lr=1e-3, cca=1.0, checkpoint_every=2)


def tiny(seed: int = 0) -> Codec:
    """Build a codec of two slices that trains a step in some milliseconds."""
    conv = {"resample": {"type": "conv", "activation": "gelu"}, "width": 12}
    transforms = {
        name: {"stages": [conv, {"resample": {"type": "conv"}}]} for name in ("g_a", "g_s")
    }
    transforms |= {name: {"stages": [{"resample": {"type": "conv"}}]} for name in ("h_a", "h_s")}
    entropy = {"slices": 2, "support": 2, "hidden": [16], "lrp": "none"}
    changes = {"latent_channels": 8, "hyper_channels": 4, "shortcut": "none", "rate_levels": 0}
    return build("tcm-nano", {**transforms, **changes, "entropy_model": entropy}, seed=seed)


@pytest.mark.parametrize("name", CHAINS)
@torch.no_grad()
def test_the_auxiliary_model_is_blind_for_the_slice_just_before_and_for_no_other(name: str) -> None:
    codec = build(name).eval()
    _, latent = codec.estimate(torch.rand(1, 3, 64, 64))
    first, second, third, _ = latent.y.split(codec.slice_widths, 1)
    for model, tells in ((codec.entropy_model, True), (codec.entropy_model.lagged(), False)):
        for changed, heard in ((second, tells), (first, True)):
            other = latent.y.clone()
            at = other.split(codec.slice_widths, 1)
            at[0 if changed is first else 1].copy_(changed + 40)
            found = []
            for y in (latent.y, other):
                _, likelihoods = codec.estimate_latent(model, replace(latent, y=y))
                found.append(likelihoods.split(codec.slice_widths, 1)[2])
            assert torch.equal(*found) is not heard
    assert third.shape[1] == 16


@pytest.mark.parametrize("name", CHAINS)
def test_it_learns_to_code_while_the_codec_is_drawn_the_other_way(name: str) -> None:
    codec = build(name).train()
    _, latent = codec.estimate(torch.rand(1, 3, 64, 64))
    leaf = replace(
        latent, y=latent.y.detach().requires_grad_(), features=[f.detach() for f in latent.features]
    )
    context = CausalContext(codec, 0.25)
    torch.manual_seed(0)
    context(codec, leaf).sum().backward()
    to_the_codec = leaf.y.grad
    own = [p.grad for p in context.parameters()]
    plain = replace(leaf, y=latent.y.detach().requires_grad_())
    context.zero_grad()
    torch.manual_seed(0)
    bits({"y": codec.estimate_latent(context.entropy_model, plain)[1]}).sum().backward()
    assert to_the_codec is not None
    torch.testing.assert_close(to_the_codec, -0.25 * plain.y.grad)
    for parameter, gradient in zip(context.parameters(), own, strict=True):
        if parameter.grad is not None:
            torch.testing.assert_close(gradient, parameter.grad)
    assert codec.entropy_model is not context.entropy_model
    assert all(p.grad is None for p in codec.parameters())


class Textures(RandomCrops):
    """Noise of several scales."""

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        layers = [torch.rand(batch_size, 3, n, n, generator=generator) / n for n in (4, 8, 16, 32)]
        return sum(3 * F.interpolate(layer, size=(32, 32), mode="bilinear") for layer in layers)


def _trained(cca: float) -> tuple[float, float]:
    """Return the first slice's share of y's bits, and that of the second's which it saves."""
    codec, crops = tiny(), Textures()
    changes = {"batch": 4, "lr": 3e-3, "schedule": "cosine", "start": "calibrate"}
    recipe = RECIPE.changed(lambdas=(0.02,), steps=60, cca=cca, **changes)
    loop = TrainingLoop(codec, recipe, crops, Fabric(accelerator="cpu", devices=1), None, None)
    loop.begin(resume=False)
    loop.run()
    assert loop.context is not None
    with torch.no_grad():
        out, latent = codec.estimate(crops.batch(1000, 64))
        blind = codec.estimate_latent(loop.context.entropy_model, latent)[1]
    first, second, _, without = (
        -slices.log2().sum().item()
        for likelihoods in (out["likelihoods"]["y"], blind)
        for slices in likelihoods.split(codec.slice_widths, 1)
    )
    return first / (first + second), 1 - second / without


def test_information_moves_into_the_early_slice_and_tells_more_of_the_later() -> None:
    (share, saved), (share_cca, saved_cca) = _trained(1e-6), _trained(1.0)
    assert share_cca > share + 0.05
    assert saved_cca > 3 * saved


def test_a_training_without_it_is_what_it_was(tmp_path: Path) -> None:
    plain, weighed = tiny(), tiny()
    train(plain, RECIPE.changed(cca=0.0), RandomCrops(64), accelerator="cpu")
    train(
        weighed, RECIPE.changed(cca=1e-30), RandomCrops(64), directory=tmp_path, accelerator="cpu"
    )
    # The auxiliary model draws its noise after all else that a step draws.
    for name, value in plain.state_dict().items():
        assert torch.equal(value, weighed.state_dict()[name]), name
    kept = tcm_lab.load_checkpoint(tmp_path / "model.safetensors")
    assert set(kept.state_dict()) == set(plain.state_dict())
    recipe = RECIPE.changed(cca=0.0)
    assert "cca" not in recipe.identity()
    assert recipe.identity() != RECIPE.identity()


def _columns(directory: Path) -> list[str]:
    with (directory / "log.csv").open() as file:
        return list(csv.DictReader(file).fieldnames or ())


def test_interrupted_and_resumed_it_ends_at_the_same_weights(tmp_path: Path) -> None:
    recipe = RECIPE.changed(steps=6, ema=0.9, start="calibrate")

    def run(directory: Path, crops: RandomCrops) -> dict[str, Tensor]:
        train(tiny(), recipe, crops, directory=directory, resume=True, accelerator="cpu")
        return load_file(directory / "training.safetensors")

    whole = run(tmp_path / "whole", RandomCrops(64))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", RandomCrops(64, signal_at=(3, signal.SIGINT)))
    parts = run(tmp_path / "parts", RandomCrops(64))
    assert any(name.startswith("cca/entropy_model.") for name in whole)
    assert any(name.startswith("context/") for name in whole)
    assert set(whole) == set(parts)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert _columns(tmp_path / "parts")[-1] == "cca"


@pytest.mark.parametrize("name", CHAINS)
def test_every_model_with_slices_trains_with_it_at_several_rates(name: str, tmp_path: Path) -> None:
    codec = build(name, {"rate_levels": 2})
    recipe = Recipe(steps=2, batch=2, crop=64, lr=1e-3, cca=0.5, start="calibrate")
    record = train(codec, recipe, RandomCrops(64), directory=tmp_path, accelerator="cpu")
    assert record.loss == pytest.approx(record.loss)
    with (tmp_path / "log.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["cca"]) == pytest.approx(float(row["cca"]))


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        ("hpcm-nano", {}, r"cca = 1: needs .*; entropy_model.type = hierarchical of hpcm-nano has"),
        ("tcm-nano", {"entropy_model.support": 0}, r"give the entropy model two slices or more"),
        ("tcm-nano", {"entropy_model.slices": 1}, r"give the entropy model two slices or more"),
        ("mlicpp-nano", {"entropy_model.slices": 1}, r"type = multi-context of .*Set cca to 0"),
    ],
)
def test_models_without_such_slices_are_refused_by_name(
    base: str, changes: dict[str, object], message: str
) -> None:
    config = load_config(base).override(changes)
    with pytest.raises(ConfigError, match=message):
        check_cca(RECIPE, config)
    with pytest.raises(ConfigError, match=message):
        train(build(config), RECIPE, RandomCrops(64), accelerator="cpu")


def test_codecs_and_studies_without_place_for_it_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cca = 1: .*this codec has none of ours"):
        train(TinyCodec(), RECIPE, RandomCrops(), accelerator="cpu")
    file = tmp_path / "space.yaml"
    file.write_text(
        "name: mine\nbase: hpcm-nano\naxes: {depth: {path: 'g_a.depth', choices: [1, 2]}}\n"
        "objectives: [kmacs_per_px]\nsampler: grid\nbudget: {recipe: minute, changes: {cca: 0.5}}\n"
    )
    with pytest.raises(ConfigError, match=r"cca = 0.5: .*hierarchical of hpcm-nano"):
        load_space(file)

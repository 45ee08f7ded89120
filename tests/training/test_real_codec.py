from pathlib import Path

import pytest
import torch
from stand_in import RandomCrops
from torch.optim.swa_utils import AveragedModel

from tcm_lab.codec import Codec, build, load_checkpoint, save_checkpoint
from tcm_lab.errors import LabError
from tcm_lab.training import Recipe, train, warm_start
from tcm_lab.training.start import as_itself
from tcm_lab.training.state import Snapshot

RECIPE = Recipe(lambdas=(0.01,), steps=2, batch=2, crop=64, lr=1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("single")
    train(build("tcm-nano"), RECIPE, RandomCrops(64), directory=directory, accelerator="cpu")
    return directory


def test_the_written_weights_are_the_trained_codec(folder: Path) -> None:
    codec = build("tcm-nano")
    train(codec, RECIPE, RandomCrops(64), directory=folder, resume=True, accelerator="cpu")
    loaded = load_checkpoint(folder / "model.safetensors")
    x = torch.rand(1, 3, 50, 70)
    with torch.no_grad():
        assert torch.equal(codec(x)["x_hat"], loaded(x)["x_hat"])
    assert codec.compress(x)["strings"] == loaded.compress(x)["strings"]


def test_all_of_a_rate_conditioned_codec_learns(folder: Path) -> None:
    codec = build("tcm-nano", {"rate_levels": 2})
    before = {name: value.detach().clone() for name, value in codec.named_parameters()}
    recipe = RECIPE.with_lambdas(0.005, 0.02).changed(warmup=0, shortcut_lr=1e-3)
    train(codec, recipe, RandomCrops(64), accelerator="cpu")
    same = [name for name, p in codec.named_parameters() if torch.equal(before[name], p)]
    assert same == []


def test_a_warm_start_takes_what_fits_and_names_what_does_not(folder: Path) -> None:
    codec = build("tcm-nano", {"rate_levels": 2})
    kept = warm_start(codec, folder / "model.safetensors")
    assert kept
    assert all("gains" in name for name in kept)
    single = load_checkpoint(folder / "model.safetensors")
    assert isinstance(single, Codec)
    theirs = single.state_dict()
    ours = codec.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs if "g_a" in name)
    with pytest.raises(LabError, match="same architecture"):
        warm_start(build("tcm-small"), folder / "model.safetensors")


@torch.no_grad()
def test_shortcuts_that_a_checkpoint_lacks_change_nothing(tmp_path: Path) -> None:
    source = build("tcm-nano", {"shortcut": "none"}, seed=1).eval()
    save_checkpoint(source, tmp_path / "source.safetensors")
    codec = build(source.config.override({"shortcut": "staged"}), seed=2).eval()
    kept = warm_start(codec, tmp_path / "source.safetensors")
    assert kept
    assert all("shortcut" in name for name in kept)
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(codec(x)["x_hat"], source(x)["x_hat"])


def test_a_warm_started_codec_is_its_source_buffers_included(tmp_path: Path) -> None:
    source = build("tcm-nano", {"entropy_model.normalised": True}, seed=1)
    assert source.y_unit is not None
    source.y_unit.uniform_(1, 9)
    save_checkpoint(source.eval(), tmp_path / "source.safetensors")
    codec = build(source.config, seed=2).eval()
    assert warm_start(codec, tmp_path / "source.safetensors") == ()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = codec(x), source(x)
    assert torch.equal(ours["x_hat"], theirs["x_hat"])
    assert torch.equal(ours["likelihoods"]["y"], theirs["likelihoods"]["y"])


def test_units_that_a_codec_has_no_place_for_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = build("tcm-nano", {"entropy_model.normalised": True})
    save_checkpoint(source, tmp_path / "source.safetensors")
    codec = build(source.config.override({"entropy_model.normalised": False}))
    warm_start(codec, tmp_path / "source.safetensors")
    assert "1 of its tensors are unused (y_unit" in caplog.text


def test_a_linear_start_does_not_replace_given_weights(folder: Path) -> None:
    codec = build("tcm-nano")
    warm_start(codec, folder / "model.safetensors")
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    linear = RECIPE.changed(start="linear", linear_steps=1)
    with pytest.raises(LabError, match=r"model\.safetensors\. Train with recipe\.without_start"):
        train(codec, linear, RandomCrops(64), accelerator="cpu")
    assert all(torch.equal(before[name], value) for name, value in codec.state_dict().items())
    train(codec, linear.without_start(), RandomCrops(64), accelerator="cpu")


def test_a_training_is_not_resumed_with_another_architecture(folder: Path) -> None:
    def resume(**changes: object) -> None:
        codec = build("tcm-nano", {path.replace("__", "."): v for path, v in changes.items()})
        train(codec, RECIPE, RandomCrops(64), directory=folder, resume=True, accelerator="cpu")

    resume(name="called otherwise")
    with pytest.raises(
        LabError,
        match=r"began with a different entropy_model\.lrp \(\S+ there, before-attention here\)",
    ):
        resume(entropy_model__lrp="before-attention")


def test_a_state_of_an_earlier_version_names_no_model_and_is_resumed(
    folder: Path, tmp_path: Path
) -> None:
    state = Snapshot.load(folder / "training.safetensors")
    facts = {name: value for name, value in state.facts.items() if name != "model"}
    Snapshot(state.tensors, facts).save(tmp_path / "training.safetensors")
    codec = build("tcm-nano", seed=1)  # whose own weights are others
    train(codec, RECIPE, RandomCrops(64), directory=tmp_path, resume=True, accelerator="cpu")
    expected = load_checkpoint(folder / "model.safetensors")
    for name, value in expected.named_parameters():
        assert torch.equal(codec.get_parameter(name), value), name


def test_a_compiled_codec_is_trained_as_itself_by_compiled_steps() -> None:
    codec = build("tcm-nano", {"?_?.depth": 1})
    assert as_itself(codec, RECIPE) == (codec, RECIPE)
    inner, recipe = as_itself(torch.compile(codec, backend="eager"), RECIPE)
    assert inner is codec
    assert recipe == RECIPE.changed(compile=True)


@pytest.mark.parametrize("around", [torch.nn.DataParallel, AveragedModel])
def test_what_else_is_around_a_codec_is_left_to_the_recipe(around: type[torch.nn.Module]) -> None:
    with pytest.raises(LabError, match=f"^{around.__name__}: pass the codec inside it"):
        train(around(build("tcm-nano")), RECIPE, RandomCrops(64), accelerator="cpu")

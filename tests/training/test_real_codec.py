from pathlib import Path

import pytest
import torch
from stand_in import RandomCrops
from torch.optim.swa_utils import AveragedModel

from tcm_lab.codec import Codec, build, load_checkpoint
from tcm_lab.errors import LabError
from tcm_lab.training import Recipe, train, warm_start
from tcm_lab.training.start import as_itself

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


def test_a_compiled_codec_is_trained_as_itself_by_compiled_steps() -> None:
    codec = build("tcm-nano", {"?_?.depth": 1})
    assert as_itself(codec, RECIPE) == (codec, RECIPE)
    inner, recipe = as_itself(torch.compile(codec, backend="eager"), RECIPE)
    assert inner is codec
    assert recipe == RECIPE.changed(compile=True)


@pytest.mark.parametrize("around", [torch.nn.DataParallel, AveragedModel])
def test_what_else_is_around_a_codec_is_left_to_the_recipe(around: type[torch.nn.Module]) -> None:
    with pytest.raises(LabError, match=f"^{around.__name__}: give the codec inside of it"):
        train(around(build("tcm-nano")), RECIPE, RandomCrops(64), accelerator="cpu")

from collections import OrderedDict

import pytest
import torch
from stand_in import RandomCrops, TinyCodec
from torch import Tensor, nn

from tcm_lab.blocks import register_block
from tcm_lab.codec import build
from tcm_lab.training import Recipe, train
from tcm_lab.training.optimizers import Muon, make_optimizers, orthogonalised
from tcm_lab.training.trainer import conditions

RECIPE = Recipe(
    lambdas=(0.01,), steps=1, optimizer="muon", lr=1e-3, matrix_lr=2e-3, entropy_lr=3e-4
)


@pytest.mark.parametrize("shape", [(2, 16, 40), (1, 40, 16), (3, 24, 24)])
def test_orthogonalised_matrices_keep_their_directions_and_lose_their_lengths(
    shape: tuple[int, ...],
) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, before, vh = torch.linalg.svd(matrices, full_matrices=False)
    after = u.mT @ orthogonalised(matrices) @ vh.mT
    diagonal = torch.diagonal(after, dim1=1, dim2=2)
    assert (after - torch.diag_embed(diagonal)).abs().max() < 1e-3
    wide = before > 0.1 * before.max()
    assert diagonal[wide].min() > 0.6
    assert diagonal.max() < 1.3


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has a Muon since 2.9")
def test_an_update_is_that_of_torch_s_own_muon() -> None:
    weights = [torch.randn(24, 40), torch.randn(40, 16), torch.randn(24, 40)]
    ours, theirs = ([nn.Parameter(w.clone()) for w in weights] for _ in range(2))
    mine = Muon(ours, lr=0.1)
    reference = torch.optim.Muon(
        theirs, lr=0.1, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        mine.step()
        reference.step()
    for a, b, start in zip(ours, theirs, weights, strict=True):
        # torch's works in bfloat16, which has two to three digits.
        assert (a - b).norm() < 0.03 * (b - start).norm()


def test_layers_called_shortcut_that_are_no_linear_path_are_trained() -> None:
    codec = TinyCodec()
    codec.g_a = nn.Sequential(OrderedDict(shortcut=codec.g_a))  # as residual blocks call theirs
    before = codec.g_a.shortcut.weight.detach().clone()
    recipe = Recipe(lambdas=(0.01,), steps=2, batch=1, crop=16)
    train(codec, recipe, RandomCrops(), accelerator="cpu")
    assert not torch.equal(codec.g_a.shortcut.weight, before)


@pytest.mark.usefixtures("own_layers")
def test_a_layer_of_a_block_that_is_called_shortcut_is_no_linear_path() -> None:
    @register_block("projected")
    class Projected(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.shortcut = nn.Conv2d(channels, channels, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.shortcut(x)

    codec = build("tcm-nano", {"shortcut": "staged", "g_?.block": "projected"})
    with conditions(codec, RECIPE.changed(shortcut_lr=0), torch.device("cpu")):
        frozen = {name for name, p in codec.named_parameters() if not p.requires_grad}
    linear = [codec.g_a.shortcut, codec.g_s.shortcut]
    linear += [stage.shortcut for g in (codec.g_a, codec.g_s) for stage in g.stages]
    paths = {id(p) for layer in linear if layer is not None for p in layer.parameters()}
    assert frozen == {name for name, p in codec.named_parameters() if id(p) in paths}


def test_each_parameter_has_one_optimiser_and_the_rate_of_its_part() -> None:
    codec = build("tcm-nano", {"rate_levels": 2, "shortcut": "staged"})
    optimizers = make_optimizers(codec, RECIPE.changed(shortcut_lr=1e-5))
    rates = {
        id(p): (kind, group["base_lr"])
        for kind, optimizer in optimizers.items()
        for group in optimizer.param_groups
        for p in group["params"]
    }
    places = {name: rates.pop(id(p)) for name, p in codec.named_parameters()}
    assert not rates
    assert places["g_a.stages.1.blocks.0.mix_in.weight"] == ("muon", 2e-3)
    assert places["g_s.stages.0.resample.conv.weight"] == ("muon", 2e-3)
    assert places["g_a.stages.1.blocks.0.mix_in.bias"] == ("adam", 1e-3)
    assert places["y_gains.log_gain"] == ("adam", 1e-3)
    assert places["slices.0.networks.0.0.weight"] == ("adam", 3e-4)
    assert places["g_a.stages.0.shortcut.weight"] == ("adam", 1e-5)
    assert places["g_s.shortcut.weight"] == ("adam", 1e-5)
    assert places["entropy_bottleneck.quantiles"] == ("aux", 1e-3)
    assert all(kind == "adam" for name, (kind, _) in places.items() if "gamma" in name)

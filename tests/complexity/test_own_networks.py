"""Networks as users write them: what torch counts of them, against counts by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcm_lab.blocks.cost import Kind
from tcm_lab.complexity import UncountedWarning, check, measure_complexity
from tcm_lab.errors import LabError

C, SIDE = 8, 64
PLACES = SIDE * SIDE
HEAD = 3 * C * PLACES
"""The MACs of the first layer of each network here."""


class Network(nn.Module):
    """A 1x1 convolution to C channels, and what a function makes of them."""

    def __init__(self, compute: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, C, 1)
        self.layers, self.compute = nn.ModuleDict(layers), compute

    def forward(self, x: Tensor) -> Any:
        return self.compute(self.head(x), **dict(self.layers.items()))


@pytest.mark.parametrize(
    "normalise",
    [
        lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (C,)),
        lambda x: F.rms_norm(x.permute(0, 2, 3, 1), (C,)),
        lambda x: torch.rms_norm(input=x.permute(0, 2, 3, 1), normalized_shape=(C,)),
        lambda x: F.group_norm(x, 2),
        lambda x: F.instance_norm(x),
        lambda x: F.batch_norm(x, torch.zeros_like(x[0, :, 0, 0]), torch.ones_like(x[0, :, 0, 0])),
    ],
)
def test_a_normalisation_without_a_layer_is_no_attention(
    normalise: Callable[[Tensor], Tensor],
) -> None:
    record = measure_complexity(Network(normalise), (SIDE, SIDE))
    assert record.macs_by_kind == {Kind.CONVOLUTION: HEAD, Kind.NORMALISATION: C * PLACES}
    assert record.unknown_operators == ()
    assert record.whole.activations == C * PLACES


@pytest.mark.parametrize("norm", [nn.InstanceNorm1d(C), nn.InstanceNorm2d(C, affine=True)])
def test_an_instance_normalisation_of_any_number_of_axes_is_one(norm: Any) -> None:
    network = Network(lambda x, norm: norm(x.flatten(2) if "1d" in repr(norm) else x), norm=norm)
    record = measure_complexity(network, (SIDE, SIDE))
    assert record.macs_by_kind == {Kind.CONVOLUTION: HEAD, Kind.NORMALISATION: C * PLACES}
    affine = {Kind.NORMALISATION: 2 * C} if norm.affine else {}
    assert record.whole.parameters == {Kind.CONVOLUTION: 4 * C, **affine}


@pytest.mark.parametrize("affine", [True, False])
def test_a_root_mean_square_normalisation_is_one_and_no_other_tool_knows_it(affine: bool) -> None:
    norm = nn.RMSNorm(C, elementwise_affine=affine)
    network = Network(lambda x, norm: norm(x.permute(0, 2, 3, 1)), norm=norm)
    record = measure_complexity(network, (SIDE, SIDE))
    assert record.macs_by_kind == {Kind.CONVOLUTION: HEAD, Kind.NORMALISATION: C * PLACES}
    gains = {Kind.NORMALISATION: C} if affine else {}
    assert record.whole.parameters == {Kind.CONVOLUTION: 4 * C, **gains}
    assert check(network, (SIDE, SIDE)).notes == ()


def test_a_product_of_two_matrices_of_one_image_is_attention_and_one_with_a_weight_is_not() -> None:
    def attend(x: Tensor, to_keys: nn.Module, **_: nn.Module) -> Tensor:
        tokens = x[0].flatten(1).T
        keys, weight = to_keys(tokens), next(to_keys.parameters())
        values = tokens @ (2 * weight)
        return torch.softmax(tokens @ keys.T, -1) @ values

    network = Network(attend, to_keys=nn.Linear(C, C, bias=False))
    record = measure_complexity(network, (SIDE, SIDE))
    assert record.macs_by_kind == {
        Kind.CONVOLUTION: HEAD,
        Kind.LINEAR: 2 * PLACES * C * C,
        Kind.ATTENTION: 2 * PLACES * PLACES * C,
    }


def test_operators_without_a_product_need_no_formula() -> None:
    def compute(x: Tensor, slope: nn.Module, words: nn.Module, norm: nn.Module) -> Tensor:
        x = F.glu(slope(x), 1) + torch.linspace(0, 1, SIDE, device=x.device)
        x = F.normalize(norm(x), dim=1).cumprod(1)
        x.unsqueeze_(0).squeeze_(0).transpose_(2, 3)
        patches = F.fold(F.unfold(x, 3, padding=1), (SIDE, SIDE), 3, padding=1)
        return patches + words(torch.arange(SIDE, device=x.device)).sum(1)

    network = Network(
        compute, slope=nn.PReLU(C), words=nn.Embedding(SIDE, 2), norm=nn.ReflectionPad2d(0)
    )
    record = measure_complexity(network, (SIDE, SIDE), counter="torch")
    assert record.unknown_operators == ()
    assert record.total_macs() == HEAD
    assert check(network, (SIDE, SIDE)).agrees


def test_attention_that_torch_fuses_out_of_sight_is_counted_on_data_too() -> None:
    def compute(x: Tensor, attend: nn.Module) -> Tensor:
        tokens = x.flatten(2).mT if float(x.sum()) < 1e9 else x
        out: Tensor = attend(tokens, tokens, tokens, need_weights=False)[0]
        return out

    network = Network(compute, attend=nn.MultiheadAttention(C, 2, batch_first=True))
    with pytest.warns(UncountedWarning, match="on an image with data"):
        record = measure_complexity(network, (SIDE, SIDE))
    assert record.unknown_operators == ()
    assert record.macs_by_kind == {
        Kind.CONVOLUTION: HEAD,
        Kind.LINEAR: 4 * C * C * PLACES,
        Kind.ATTENTION: 2 * C * PLACES**2,
    }


def test_layers_that_are_called_by_name_are_explained_too() -> None:
    def compute(x: Tensor, conv: nn.Module, norm: nn.Module) -> Any:
        return norm(input=conv(input=x))

    network = Network(compute, conv=nn.Conv2d(C, C, 3, padding=1), norm=nn.GroupNorm(2, C))
    report = check(network, (SIDE, SIDE))
    assert report.reference_macs == HEAD + 9 * C * C * PLACES
    assert report.agrees
    by_name = {each.counter: each.unexplained for each in report.counters}
    assert (by_name["torch"], by_name["fvcore"]) == (0, 0)


@pytest.mark.parametrize(
    "layer", [nn.LayerNorm(C), nn.Linear(C, C)], ids=["a normalisation", "a product"]
)
def test_a_network_that_torch_refuses_to_run_is_not_counted(layer: nn.Module) -> None:
    network = Network(lambda x, layer: layer(x), layer=layer)  # it needs its channels last
    with pytest.raises(RuntimeError) as refused:
        network(torch.rand(1, 3, SIDE, SIDE))
    with pytest.raises(LabError, match=re.escape(str(refused.value)[:24])):
        measure_complexity(network, (SIDE, SIDE))


class Sharing(nn.Module):
    """Analysis and synthesis with a layer in common."""

    def __init__(self) -> None:
        super().__init__()
        common = nn.Conv2d(C, C, 3, padding=1)
        self.g_a = nn.Sequential(nn.Conv2d(3, C, 1), common)
        self.g_s = nn.Sequential(common, nn.Conv2d(C, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.g_s(self.g_a(x))
        return out


def test_a_layer_that_two_parts_share_costs_each_of_them_where_it_runs() -> None:
    record = measure_complexity(Sharing(), (SIDE, SIDE))
    own = HEAD + 9 * C * C * PLACES
    assert record.macs_by_part() == {"g_a": own, "g_s": own}
    assert record.total_macs("decode") == own
    assert record.total_parameters == sum(p.numel() for p in Sharing().parameters())


class Keeping(nn.Module):
    """Keeps a map of its last pass, and may look at its values."""

    def __init__(self, *, looks: bool) -> None:
        super().__init__()
        self.head, self.looks = nn.Conv2d(3, C, 1), looks

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.head(x)
        return self.last if not self.looks or self.last.sum() < 1e9 else x


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.filterwarnings("ignore::tcm_lab.complexity.directions.UncountedWarning")
def test_a_network_that_keeps_a_map_of_its_last_pass_is_counted(looks: bool) -> None:
    network = Keeping(looks=looks)
    before = network(torch.rand(1, 3, 4, 4))
    assert measure_complexity(network, (SIDE, SIDE)).total_macs() == HEAD
    assert network.last is before


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(C), nn.BatchNorm2d(C, affine=False), nn.GroupNorm(2, C), nn.InstanceNorm2d(C)],
    ids=str,
)
def test_what_each_tool_counts_of_a_normalisation_is_explained(norm: nn.Module) -> None:
    report = check(Network(lambda x, norm: norm(x), norm=norm), (SIDE, SIDE))
    assert report.agrees
    assert {each.counter: each.unexplained for each in report.counters if each.unexplained} == {}


@pytest.mark.parametrize("product", ["einsum", "bmm", "baddbmm"])
def test_a_product_with_a_weight_is_a_layer_however_it_is_written(product: str) -> None:
    def compute(x: Tensor, layer: nn.Module) -> Any:
        tokens, weight = x.flatten(2).mT, next(layer.parameters())
        if product == "einsum":
            return torch.einsum("bnhc,hcd->bnhd", tokens.unflatten(2, (2, C // 2)), weight)
        tokens = tokens.unflatten(2, (2, C // 2)).transpose(1, 2).flatten(0, 1)
        if product == "bmm":
            return torch.bmm(tokens, weight)
        return torch.baddbmm(torch.zeros(1, 1, C // 2, device=x.device), tokens, 2 * weight)

    weights = nn.ParameterList([torch.zeros(2, C // 2, C // 2)])
    record = measure_complexity(Network(compute, layer=weights), (SIDE, SIDE))
    assert record.macs_by_kind == {Kind.CONVOLUTION: HEAD, Kind.LINEAR: C * C // 2 * PLACES}


def test_attention_to_what_is_learnt_stays_attention() -> None:
    def compute(x: Tensor, entries: nn.Module, to_keys: nn.Module, **_: nn.Module) -> Any:
        tokens, learnt = x.flatten(2).mT, next(entries.parameters())[None]
        found = torch.softmax(torch.bmm(tokens, to_keys(learnt).mT), -1)
        return F.scaled_dot_product_attention(learnt, tokens, tokens), found

    network = Network(
        compute, entries=nn.ParameterList([torch.zeros(5, C)]), to_keys=nn.Linear(C, C)
    )
    record = measure_complexity(network, (SIDE, SIDE))
    assert record.macs_by_kind[Kind.ATTENTION] == 3 * 5 * C * PLACES

"""HPCM as its authors' code computes and codes it, and what ours does beyond that."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from golden import (
    assert_same,
    assert_same_in_double,
    forward,
    kodak_crop,
    published_results,
    published_shapes,
    weights_by_name,
)
from torch import Tensor

import tcm_lab
from tcm_lab.blocks import Kind
from tcm_lab.blocks.cross_attention import cross_attention_cost
from tcm_lab.codec import Codec, export_state, part_costs
from tcm_lab.codec.checkpoint import CheckpointError
from tcm_lab.codec.entropy_models.lattices import lattices
from tcm_lab.codec.generalised_gaussian import SHAPE

Results = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def published() -> Results:
    return published_results("hpcm_base")


@pytest.fixture(scope="module")
def codec() -> Codec:
    return tcm_lab.load_checkpoint(weights_by_name(published_shapes("hpcm_base")))


def test_the_export_has_the_published_names_and_shapes_one_to_one() -> None:
    exported = export_state(tcm_lab.build("hpcm-base", device="meta"), "hpcm")
    shapes = {name: tuple(value.shape) for name, value in exported.items()}
    assert shapes == published_shapes("hpcm_base")


@torch.no_grad()
def test_it_computes_what_the_published_code_does(codec: Codec, published: Results) -> None:
    assert codec.config == tcm_lab.load_config("hpcm-base")
    entered: list[Tensor] = []
    contexts: list[Tensor] = []
    model: Any = codec.context_model
    handles = [
        model.merges[0].register_forward_pre_hook(lambda m, i: entered.append(i[0])),
        *(
            network.register_forward_hook(lambda m, i, output: contexts.append(output))
            for network in (*model.trunks.values(), *model.attentions)
        ),
    ]
    seen, _ = forward(codec, kodak_crop(), ("params",))
    for handle in handles:
        handle.remove()
    # In turn the context of a step and what attention makes of it, but for the last step.
    for step, context in ((0, contexts[0]), (3, contexts[6]), (9, contexts[18])):
        seen[f"context_{step}"] = context[:, ::16]
    seen["context_next_0"], seen["context_next_3"] = (contexts[i][:, ::16] for i in (1, 7))
    # Of what enters the half lattice, the hyper parameters, many of them from other places.
    hyper = entered[0].flatten()[published["hyper_s2.at"]]
    torch.testing.assert_close(hyper, torch.from_numpy(published["hyper_s2.values"]))
    for name, value in seen.items():
        assert_same(value, published, name, tolerance=1e-5)
    _assert_same_bits(seen, published)


def _assert_same_bits(seen: dict[str, Tensor], published: Results) -> None:
    """Compare bits by the published formula, which is coarse in the tails.

    It is a difference of two float32 probabilities near one; ours keeps its precision there.
    """
    shape = torch.tensor(1 / SHAPE)

    def below(t: Tensor) -> Tensor:
        return (1 + t.sign() * torch.special.gammainc(shape, t.abs() ** SHAPE)) / 2

    steps = (seen["y_hat"] - seen["means"]).round()
    scales = seen["scales"].clamp(min=0.12)
    likelihoods = below((steps + 0.5) / scales) - below((steps - 0.5) / scales)
    bits = -likelihoods.clamp(min=1e-9).double().log2()
    assert bits.sum().item() == pytest.approx(float(published["bits_y"]), rel=1e-4)
    walk = lattices(320, (16, 16), bits.device, nominal=True)
    by_step = [step.places.of(bits).sum().item() for lattice in walk for step in lattice.steps]
    assert by_step == pytest.approx(published["bits_y_step"].tolist(), rel=1e-4)


def test_it_computes_the_same_to_nine_digits_in_double_precision(codec: Codec) -> None:
    assert_same_in_double(codec, "hpcm_base")


def test_it_writes_the_published_bytes_and_reads_them(codec: Codec, published: Results) -> None:
    coded = codec.compress(kodak_crop())
    strings = [[published[f"{name}_string"].tobytes()] for name in "yz"]
    assert coded["strings"] == strings
    tables = codec._current_tables().cdfs
    assert tables[0][0] == published["cdf_y_first"].tolist()
    assert tables[0][20] == published["cdf_y_20"].tolist()
    assert tables[1] == published["cdf_length_y"].tolist()
    assert tables[2] == published["offset_y"].tolist()
    decoded = codec.decompress(strings, coded["shape"], coded["size"])["x_hat"]
    there = torch.from_numpy(published["x_hat.values"]).clamp(0, 1)
    assert (decoded.flatten()[published["x_hat.at"]] - there).abs().max() < 1e-5


def test_a_missing_or_misshapen_entry_is_named() -> None:
    shapes = published_shapes("hpcm_base")
    empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    del empty["attn_s2.conv_k.weight"]
    empty["g_s.branch.11.bias"] = torch.empty(4, device="meta")
    message = (
        r"1 missing \(attn_s2.conv_k.weight\); 1 .* \(g_s.branch.11.bias is \(4,\), not \(3,\)\)"
    )
    with pytest.raises(CheckpointError, match=message):
        tcm_lab.load_checkpoint(empty)


#: Of one forward pass at 512x768 by the authors' code, in GMAC.
GMACS = {
    "g_a": 66.89, "h_a + h_s": 8.45, "coarse_trunk": 14.60, "fine_trunk": 175.93,
    "adaptors": 9.64, "attention": 18.00, "merging": 0.79, "g_s": 66.89,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "parameters", "kmacs_per_px"),
    [("hpcm-base", 68_505_299, 918.56), ("hpcm-large", 89_718_803, 1261.29)],
)
def test_it_costs_what_was_published_but_for_an_attention_that_nothing_uses(
    name: str, parameters: int, kmacs_per_px: float
) -> None:
    costs = part_costs(tcm_lab.load_config(name), (512, 768))
    assert sum(cost.total_parameters for cost in costs.values()) == parameters
    macs = {part: cost.total_macs for part, cost in costs.items()}
    macs["attention"] += cross_attention_cost(640, 20, 8, 32, 48).total_macs
    assert sum(macs.values()) / (512 * 768) / 1e3 == pytest.approx(kmacs_per_px, rel=3e-5)
    if name == "hpcm-base":
        macs["h_a + h_s"] = macs["h_a"] + macs["h_s"]
        assert {part: round(macs[part] / 1e9, 2) for part in GMACS} == GMACS
    assert costs["prior"].parameters == {Kind.PRIOR: 2 * 256}


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (36, 20)])
def test_every_element_is_coded_once_and_no_lattice_misplaces_its_hyper_parameters(
    size: tuple[int, int],
) -> None:
    h, w = size
    walk = lattices(16, size, torch.device("cpu"), nominal=False)
    steps = [step for lattice in walk for step in lattice.steps]
    everything = torch.arange(16 * h * w, dtype=torch.int32)
    assert torch.equal(torch.cat([s.latent for s in steps]).sort()[0], everything)
    # A sixteenth, three and twelve.
    assert [sum(len(s.latent) for s in lattice.steps) for lattice in walk] == [
        h * w, 3 * h * w, 12 * h * w
    ]  # fmt: skip
    before = everything[:0]
    for lattice in walk:
        sources = torch.cat((before, everything))
        assert torch.equal(sources[lattice.entry], lattice.latent)
        for step in lattice.steps:
            assert torch.equal(lattice.latent.flatten()[step.here], step.latent)
            channel, row, column = step.places.channel, step.places.row, step.places.column
            assert torch.equal((channel * h + row) * w + column, step.latent.long())
        before = lattice.latent.flatten()


def test_few_sizes_are_kept_and_serve_inference_and_training_alike() -> None:
    def bytes_kept() -> int:
        gc.collect()
        tensors = [each for each in gc.get_objects() if type(each) is Tensor]
        return sum({t.untyped_storage()._cdata: t.nbytes for t in tensors}.values())

    before, size, elements = bytes_kept(), (64, 64), 320 * 64 * 64
    with torch.inference_mode():
        made = lattices(320, size, torch.device("cpu"), nominal=False)
    assert lattices(320, size, torch.device("cpu"), nominal=False) is made
    assert bytes_kept() - before < 20 * elements
    for side in range(4, 68, 4):
        lattices(320, (side, 64), torch.device("cpu"), nominal=False)
    assert bytes_kept() - before < 5 * 20 * elements


def test_the_authors_pick_another_place_for_most_of_the_half_lattice() -> None:
    own, nominal = (
        lattices(320, (16, 16), torch.device("cpu"), nominal=nominal)[1].entry
        for nominal in (False, True)
    )
    by_group = [
        (a != b).float().mean().item() for a, b in zip(own.chunk(8), nominal.chunk(8), strict=True)
    ]
    assert by_group[:2] == [0, 0]
    assert min(by_group[2:]) > 0.15


def test_its_schedule_goes_with_tcm_s_transforms(tmp_path: Any) -> None:
    file = tmp_path / "tcm-hierarchical.yaml"
    model = "{entropy_model: {type: hierarchical, head_dim: 16}}"
    file.write_text(f"base: tcm-nano\nname: mine\noverride: {model}\n")
    codec = tcm_lab.build(file).eval()
    x = torch.rand(3, 3, 65, 129)
    with torch.no_grad():
        forward = codec(x)["x_hat"].clamp(0, 1)
    for portable in (False, True):
        decoded = codec.decompress(**codec.compress(x, portable=portable))["x_hat"]
        assert (decoded - forward).abs().max() <= (0.05 if portable else 1e-4)
    with pytest.raises(tcm_lab.ConfigError, match=r"8 groups of channels, .*; .* 56 or 64"):
        tcm_lab.load_config(file).override({"latent_channels": 60})


def test_the_width_of_every_stage_is_read_off_the_shapes() -> None:
    changes = {"g_a.width": [64, 96, 160], "g_s.width": [160, 128, 96], "g_*.depth": [1, 2, 1]}
    config = tcm_lab.load_config("hpcm-base").override(changes)
    exported = export_state(tcm_lab.build(config), "hpcm")
    read = tcm_lab.load_checkpoint(exported).config
    assert read.fingerprint == config.fingerprint

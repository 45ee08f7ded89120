"""While an entropy model estimates or codes, the host waits for a GPU in the coder alone.

The meta device stands for a GPU: what asks for a value there fails, and what copies is seen.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import tcm_lab
from tcm_lab._compat.torchvision import import_compressai
from tcm_lab.codec import Channels, Coder, Places
from tcm_lab.codec.coding import SymbolEncoder, SymbolTables
from tcm_lab.codec.outputs import Latent
from tcm_lab.codec.portable import Agreement, PortablePath, PortableTables
from tcm_lab.codec.priors import FactorisedPrior

EntropyBottleneck: Any = import_compressai().entropy_models.EntropyBottleneck
META = torch.device("meta")
CODECS: dict[str, tuple[str, dict[str, Any]]] = {
    "slices": ("tcm-nano", {"?_?.depth": 0}),
    "swatten": ("tcm-small", {"?_?.depth": 0}),
    "checkerboard": ("tcm-nano", {"?_?.depth": 0, "entropy_model.checkerboard": True}),
    "dictionary": ("dcae-nano", {}),
    "hierarchical": ("hpcm-nano", {}),
    "multi-context": ("mlicpp-nano", {}),
}


class Copies(TorchDispatchMode):
    """Counts what is copied between devices."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [value for value in (*args[:1], out) if isinstance(value, Tensor)]
        copies = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        self.count += copies and len({value.device for value in tensors}) > 1
        return out


class DecoderButItsOwnCopies:
    """What `SymbolDecoder` does to places, with symbols that are on the device already."""

    def __init__(self, tables: SymbolTables) -> None:
        self._tables = tables

    def __call__(self, places: Places, mean: Tensor, scale: Tensor) -> Tensor:
        indexes = self._tables.indexes(places.flat(scale))
        return places.around(mean, indexes)


@torch.no_grad()
def _copies_of_a_second_walk(codec: Any, code: Coder) -> int:
    """Return how many; the first walk may move what is kept for all that follow."""
    dtype = codec.entropy_bottleneck.medians().dtype
    z = torch.empty(2, codec.config.hyper_channels, 2, 3, device=META, dtype=dtype)
    features = codec._hyper(z, None)
    codec._walk(features, code)
    with Copies() as copies:
        y_hat = codec._walk(features, code)
    assert y_hat.shape == (2, codec.config.latent_channels, 8, 12)
    return copies.count


@pytest.mark.parametrize("decodes", [False, True], ids=["encoder", "decoder"])
@pytest.mark.parametrize("name", CODECS)
def test_a_walk_waits_for_nothing_but_its_coder(name: str, decodes: bool) -> None:
    codec: Any = tcm_lab.build(*CODECS[name]).eval()
    tables = codec._current_tables()
    codec.to(META)
    y = torch.empty(2, codec.config.latent_channels, 8, 12, device=META)
    code = DecoderButItsOwnCopies(tables) if decodes else SymbolEncoder(y, tables)
    assert _copies_of_a_second_walk(codec, Coder(code, codec._steps_per_unit(None))) == 0


@pytest.mark.parametrize("name", CODECS)
def test_decoding_a_portable_stream_waits_for_nothing_more(name: str) -> None:
    codec: Any = tcm_lab.build(*CODECS[name]).eval().double().to(META)
    agree = Agreement(2, [b"\x05\x07\x00\x7f", b""])
    tables = PortableTables(codec.config.entropy_model.distribution, agree)
    path = PortablePath(agree, codec.entropy_bottleneck, tables)
    code = path.coder(DecoderButItsOwnCopies(tables), codec._steps_per_unit(None))
    assert _copies_of_a_second_walk(codec, code) == 0


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", CODECS)
def test_an_estimate_waits_for_nothing(name: str, training: bool) -> None:
    codec: Any = tcm_lab.build(*CODECS[name]).train(training).to(META)
    y = torch.empty(2, codec.config.latent_channels, 8, 12, device=META)
    z = torch.empty(2, codec.config.hyper_channels, 2, 3, device=META)
    for _ in range(2):  # the first may move what is kept for all that follow
        with Copies() as copies:
            _, z_likelihoods = codec.entropy_bottleneck(z)
            features = codec._hyper(codec._quantise_z(z), None)
            latent = Latent(y, features, codec._steps_per_unit(None))
            _, y_likelihoods = codec.estimate_latent(codec.entropy_model, latent)
    assert (z_likelihoods.shape, y_likelihoods.shape) == (z.shape, y.shape)
    assert copies.count == 0


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("shape", [(1, 5, 1, 1), (3, 5, 4, 7)])
def test_the_factorised_prior_computes_compressai_s_numbers(
    shape: tuple[int, ...], training: bool
) -> None:
    prior = FactorisedPrior(shape[1]).train(training)
    found = []
    for forward in (FactorisedPrior.forward, EntropyBottleneck.forward):
        z = 5 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
        z = z.to(memory_format=torch.channels_last).requires_grad_()
        torch.manual_seed(1)
        z_hat, likelihoods = forward(prior, z)
        loss = (z_hat * torch.arange(z.numel()).view(shape)).sum() - likelihoods.log().sum()
        gradients = torch.autograd.grad(loss, (z, *prior.parameters()), allow_unused=True)
        strides = (z_hat.stride(), likelihoods.stride())
        found.append(((z_hat, likelihoods, *gradients), strides))
    (ours, our_strides), (theirs, their_strides) = found
    assert our_strides == their_strides
    for mine, other in zip(ours, theirs, strict=True):
        assert mine is other is None or torch.equal(mine, other)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 5), (4, 6), (5, 4)])
def test_counted_positions_are_those_that_are_found(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    where = torch.rand(size, generator=generator) < 0.5
    maps = torch.randn(2, 6, *size, generator=generator).to(memory_format=torch.channels_last)
    for mask in (where, ~where, where & False, where | True):
        found, counted = Channels(1, 4, mask), Channels(1, 4, mask, int(mask.sum()))
        values = maps[:, 1:4]
        flat = counted.flat(values)
        assert torch.equal(flat, values[:, :, mask].flatten(1))
        assert torch.equal(flat, found.flat(values))
        symbols = torch.arange(flat.numel(), dtype=torch.int32).view(flat.shape)
        around = counted.around(values, symbols)
        assert torch.equal(around, found.around(values, symbols))
        assert around.stride() == torch.zeros_like(values).stride()
        assert torch.equal(around[:, :, mask], values[:, :, mask] + symbols.view(2, 3, -1))
        assert not around[:, :, ~mask].any()

"""Encoder and decoder hand every layer the same tensors, in the same memory layout.

A layer of the user's own may compute something that depends on it: a sum over a map runs in the
order in which the map lies in memory, and the last bits of a mean decide which symbol is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tcm_lab

Probe = list[tuple[str, tuple[int, ...], Tensor]]


class _Gate(nn.Module):
    """Global average pooling, a 1x1 convolution, a sigmoid; times the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()


class _SoftmaxPool(nn.Module):
    """Attention pooling: a softmax over the whole map weighs its positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.score(x).flatten(2).softmax(-1).transpose(1, 2)
        return x + torch.matmul(x.flatten(2), weights)[..., None]


class _RunningMean(nn.Module):
    """Cumulative sums along the rows, and statistics of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        normal = (x - x.mean((1, 2, 3), keepdim=True)) / (1 + x.std((1, 2, 3), keepdim=True))
        return x + self.scale * normal.cumsum(-1) / x.shape[-1]


class _Einsum(nn.Module):
    """Channel attention (XCiT): products over all positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        gram = torch.einsum("bchw,bdhw->bcd", x, x) / x[0, 0].numel()
        return x + torch.einsum("bcd,bdhw->bchw", (self.temperature * gram).softmax(-1), x)


class _Memory(nn.Module):
    """Mixes values by where they lie in memory, as `as_strided` and a wrong `view` do."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        in_memory = torch.as_strided(x, (x.numel(),), (1,), x.storage_offset())
        strides = torch.tensor(x.stride(), dtype=x.dtype).log1p().sum()
        return x + self.strength * (in_memory.cumsum(0).sin().view(x.shape) + strides.sin())


class _Contiguous(nn.Module):
    """Leaves its result in another layout than the codec's weights have."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.scale * x).contiguous()


LAYERS = (_Gate, _SoftmaxPool, _RunningMean, _Einsum, _Memory, _Contiguous)
#: Two paths or one, which is then a view of a larger tensor; one pass or two; even slices or not.
ENTROPY_MODELS: dict[str, dict[str, Any]] = {
    "apart": {},
    "shared": {"entropy_model.paths": "shared", "entropy_model.slices": [5, 11, 48]},
    "checkerboard": {"entropy_model.checkerboard": True, "entropy_model.lrp": "before-attention"},
}
#: Threads, batch and size of the images.
CASES = ((1, 1, (1, 1)), (1, 3, (70, 64)), (2, 1, (64, 200)), (2, 2, (260, 130)))


@pytest.fixture(params=LAYERS, ids=lambda layer: layer.__name__.strip("_").lower())
def attention(request: pytest.FixtureRequest, own_layers: None) -> str:
    tcm_lab.register_attention("own")(request.param)
    return "own"


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _codec(changes: dict[str, Any]) -> Any:
    """Build a codec whose symbols are spread, and whose hyper transforms end in the layer too."""
    codec = tcm_lab.build("tcm-nano", {"?_?.depth": 0, **changes}).eval()
    with torch.no_grad():
        for transform in (codec.g_a, codec.h_a):
            for parameter in transform.stages[-1].resample.parameters():
                parameter.mul_(20)
    return codec


def _watched(codec: Any) -> Probe:
    """Return a list that takes what enters each of the codec's decoding layers, in order."""
    seen: Probe = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen.extend((name, x.stride(), x.clone()) for x in inputs if isinstance(x, Tensor))

        return hook

    for name, module in codec.named_modules():
        if name.startswith(("h_s", "slices")):
            module.register_forward_pre_hook(note(name))
    return seen


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("changes", ENTROPY_MODELS.values(), ids=ENTROPY_MODELS)
def test_the_decoder_computes_what_the_encoder_did_with_layers_that_depend_on_the_layout(
    attention: str, changes: dict[str, Any]
) -> None:
    codec = _codec({**changes, "entropy_model.attention": attention, "h_?.attention": attention})
    seen = _watched(codec)
    for threads, batch, size in CASES:
        torch.set_num_threads(threads)
        coded = codec.compress(torch.rand(batch, 3, *size))
        encoder = [*seen]
        seen.clear()
        codec.decompress(**coded)  # the checksum is compared
        assert {name.partition(".")[0] for name, *_ in seen} == {"h_s", "slices"}
        for (name, stride, value), (other, its_stride, its_value) in zip(
            encoder, seen, strict=True
        ):
            assert (name, stride) == (other, its_stride)
            assert torch.equal(value, its_value)
        seen.clear()

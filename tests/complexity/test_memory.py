"""Peak memory against sums done by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tcm_lab.complexity import Target, measure_complexity, peak_memory
from tcm_lab.complexity.memory import decode_peak_memory

BYTES = 4


def test_the_peak_of_a_chain_is_its_widest_pair_with_all_weights() -> None:
    with torch.device("meta"):
        model = nn.Sequential(
            nn.Conv2d(3, 8, 1, bias=False),
            nn.Conv2d(8, 16, 1, bias=False),
            nn.Conv2d(16, 2, 1, bias=False),
        )
    weights = 3 * 8 + 8 * 16 + 16 * 2
    # While the second convolution runs: the image, its input and its output.
    alive = (3 + 8 + 16) * 64 * 64
    assert peak_memory(model, (64, 64)) == BYTES * (weights + alive)


def test_a_skip_connection_keeps_its_input_alive() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            kept = self.conv(x)
            return kept + self.conv(self.conv(kept))

    with torch.device("meta"):
        model = Skip()
    maps = 4  # the image, what is kept, and input and output of the last convolution
    assert peak_memory(model, (32, 32)) == BYTES * (9 + maps * 3 * 32 * 32)


class _Autoencoder(nn.Module):
    """A wide encoder, and a narrow decoder of three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.g_a = nn.Sequential(nn.Conv2d(3, 64, 1, bias=False), nn.Conv2d(64, 4, 1, bias=False))
        self.g_s = nn.Sequential(nn.Conv2d(4, 8, 1, bias=False), nn.Conv2d(8, 3, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        symbols = torch.round(self.g_a(x))
        out: Tensor = self.g_s(symbols)
        return out


def test_the_peak_of_decoding_leaves_out_the_encoder_its_weights_and_the_image() -> None:
    target = Target.of(_Autoencoder())
    weights = 4 * 8 + 8 * 3
    # While the last convolution runs: the symbols, its input and its output.
    assert decode_peak_memory(target, (64, 64)) == BYTES * (weights + (4 + 8 + 3) * 64 * 64)
    whole = 3 * 64 + 64 * 4 + weights + (3 + 64 + 4) * 64 * 64
    assert peak_memory(target.runnable, (64, 64)) == BYTES * whole


def test_peak_memory_is_in_the_record_when_asked_for() -> None:
    assert measure_complexity("tcm-nano", (64, 64)).peak_memory_bytes is None
    record = measure_complexity("tcm-nano", (64, 64), memory=True)
    assert record.peak_memory_bytes is not None
    assert record.peak_memory_bytes > record.weight_bytes + BYTES * 3 * 64 * 64
    assert record.decode_peak_memory_bytes is not None
    assert record.decode_peak_memory_bytes < record.peak_memory_bytes

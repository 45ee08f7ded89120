"""Attention in portions is attention: values and gradients are those of torch's own kernel."""

from __future__ import annotations

import pytest
import torch

from tcm_lab.blocks import WindowAttention, WindowCrossAttention, window_attention
from tcm_lab.blocks.swin import SwinLayer

SIZES = [(1, 8, 8), (2, 33, 50), (1, 7, 3), (1, 1, 1)]


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.double()


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scores", [1, 2**21])
def test_values_and_gradients_are_those_of_the_fused_kernel(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int, int], shifted: bool, scores: int
) -> None:
    monkeypatch.setattr(window_attention, "_CACHED_SCORES", scores)
    attention = randomised(WindowAttention(16, 8, 8, shifted=shifted))
    x = torch.randn(*size, 16, dtype=torch.float64, requires_grad=True)
    wanted = [x, *attention.parameters()]
    out = attention(x)
    plan = attention.plan(x)
    fused = attention.proj(
        window_attention.attend_fused(attention.qkv(plan.cut(x)), attention.bias(), plan)
    )
    expected = plan.join(fused, (size[1], size[2]))
    torch.testing.assert_close(out, expected)
    weights = torch.randn_like(out)
    torch.testing.assert_close(
        torch.autograd.grad(out, wanted, weights), torch.autograd.grad(expected, wanted, weights)
    )


@pytest.mark.parametrize("size", SIZES)
def test_cross_attention_is_softmax_among_the_real_positions_of_each_window(
    size: tuple[int, int, int],
) -> None:
    attention = randomised(WindowCrossAttention(12, 4, 4))
    x, other = torch.randn(2, size[0], 12, *size[1:], dtype=torch.float64)
    expected = attention.skip(x)
    q, k, v = attention.query(x), attention.key(other), attention.value(other)
    for row in range(0, size[1], 4):
        for column in range(0, size[2], 4):
            here = (..., slice(row, row + 4), slice(column, column + 4))
            # Heads of four channels: (B, 3, positions, 4).
            a, b, c = (m[here].flatten(2).unflatten(1, (3, 4)).transpose(2, 3) for m in (q, k, v))
            mixed = (a @ b.transpose(2, 3) / 2).softmax(-1) @ c
            expected[here] += mixed.transpose(2, 3).flatten(1, 2).view_as(expected[here])
    torch.testing.assert_close(attention(x, other), expected)
    torch.testing.assert_close(attention(x), attention(x, x))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_a_layer_computes_the_same_in_portions_and_on_whole_maps(
    size: tuple[int, int, int], shifted: bool
) -> None:
    layer = randomised(SwinLayer(16, 8, 8, 2.0, shifted=shifted))
    x = torch.randn(*size, 16, dtype=torch.float64).permute(0, 3, 1, 2)
    whole = layer(x)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), whole.detach())


def test_a_layer_whose_parts_are_watched_works_on_whole_maps() -> None:
    layer, seen = SwinLayer(16, 8, 8, 2.0, shifted=True), list[tuple[int, ...]]()
    layer.mlp.register_forward_hook(lambda m, args, out: seen.append(tuple(out.shape)))
    with torch.no_grad():
        layer(torch.randn(1, 16, 9, 10))
    assert seen == [(1, 9, 10, 16)]

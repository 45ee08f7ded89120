"""MLIC++'s two attentions against what their definitions say, position by position."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tcm_lab.blocks import GlobalAttention, OverlappedWindowAttention, overlapped_windows
from tcm_lab.blocks.linear_attention import LinearAttention


def _checkerboard(height: int, width: int) -> Tensor:
    return (torch.arange(height)[:, None] + torch.arange(width)) % 2 == 1


def _window(module: OverlappedWindowAttention, qkv: Tensor, seen: Tensor, at: range) -> Tensor:
    """Return the vector of the window that begins at the padded position ``at``, head by head."""
    n, heads = module.window_size, module.heads
    rows, columns = slice(at.start, at.start + n), slice(at.stop, at.stop + n)
    places = qkv[rows, columns].flatten(0, 1)  # (N, 3, d, heads)
    known = seen[rows, columns].flatten()
    attended = []
    for head in range(heads):
        q, k, v = places[..., head].unbind(1)
        scores = q @ k.T / q.shape[1] ** 0.5
        for i in range(n * n):
            for j in range(n * n):
                down, right = i // n - j // n + n - 1, i % n - j % n + n - 1
                bias = module.relative_position_bias[down * (2 * n - 1) + right, head]
                scores[i, j] += bias + (0 if known[i] and known[j] else -100)
        attended.append((scores.softmax(1) @ v).T.reshape(-1, n, n))
    return module.fuse(torch.cat(attended)[None]).flatten()


@pytest.mark.parametrize("masked", [True, False])
@torch.no_grad()
def test_each_position_gets_what_attention_in_the_window_around_it_finds(masked: bool) -> None:
    height, width, channels = 4, 5, 8
    module = OverlappedWindowAttention(channels, 4, 3, 6, 2.0).double()
    torch.nn.init.normal_(module.relative_position_bias)
    x = torch.randn(2, channels, height, width, dtype=torch.float64)
    seen = _checkerboard(height, width)
    out = module(x * seen, seen) if masked else module(x)
    inside = seen if masked else torch.ones(height, width, dtype=torch.bool)
    # Unmasked, what lies beyond the map is seen as zeros; masked, it is no known place.
    known = F.pad(inside, (1, 1, 1, 1), value=not masked)
    for image in range(2):
        normal = module.norm1((x * inside)[image].permute(1, 2, 0))
        qkv = module.qkv(normal).unflatten(-1, (3, channels // 2, 2))
        qkv = F.pad(qkv, (0,) * 6 + (1,) * 4)
        for row in range(height):
            for column in range(width):
                fused = module.proj(_window(module, qkv, known, range(row, column)))
                expected = fused + module.mlp(module.norm2(fused))
                assert torch.allclose(out[image, :, row, column], expected, atol=1e-12)


def test_cutting_windows_in_portions_changes_neither_result_nor_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = OverlappedWindowAttention(16, 8, 5, 12, 2.0).double()
    x = torch.randn(2, 16, 9, 7, dtype=torch.float64, requires_grad=True)
    found = []
    for cached in (2**30, 1):  # all rows at once, one row at a time
        monkeypatch.setattr(overlapped_windows, "_CACHED_SCORES", cached)
        out = module(x, _checkerboard(9, 7))
        found.append((out, torch.autograd.grad(out.square().sum(), x)[0]))
    for whole, portions in zip(*found, strict=True):
        assert torch.allclose(whole, portions, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_linear_attention_weighs_all_values_by_two_softmaxes() -> None:
    module = LinearAttention(8, 4).double()
    maps = torch.randn(3, 1, 8, 5, 6, dtype=torch.float64)
    at = _checkerboard(5, 6)
    out = module(*maps, at)
    q, k, v = (
        net(x)[0].flatten(1)
        for net, x in zip((module.queries, module.keys, module.values), maps, strict=True)
    )
    for head in (slice(0, 4), slice(4, 8)):
        # What position p takes from position a: the sum over channels of both softmaxes.
        answers = k[head, at.flatten()].softmax(1)
        weights = q[head].softmax(0).T @ answers
        expected = v[head, at.flatten()] @ weights.T
        assert torch.allclose(out[0, head].flatten(1), expected, atol=1e-12)


@torch.no_grad()
def test_only_those_that_do_not_answer_find_something() -> None:
    module = GlobalAttention(8, 4, 5, 6, 10, 12)
    seen: list[Tensor] = []
    module.mix.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    maps = torch.randn(3, 1, 8, 5, 6)
    first = _checkerboard(5, 6)
    assert module(*maps, first).shape == (1, 12, 5, 6)
    assert seen[0][:, :, first].abs().max() == 0 < seen[0][:, :, ~first].abs().min()
    # On a map of one position there is none that answers.
    assert torch.isfinite(module(*maps[..., :1, :1], first[:1, :1])).all()

"""Window attention against one written from Swin's text, window by window and pair by pair."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tcm_lab.blocks import WindowAttention
from tcm_lab.blocks.windows import window_plan

WIDTH, HEAD_WIDTH = 12, 4
SIZES = [(1, 1), (3, 7), (8, 8), (9, 5), (4, 13), (2, 3)]


def _attention(window_size: int, *, shifted: bool) -> WindowAttention:
    attention = WindowAttention(WIDTH, HEAD_WIDTH, window_size, shifted=shifted).double()
    torch.nn.init.normal_(attention.relative_position_bias)
    return attention


def _plainly(attention: WindowAttention, x: Tensor, window_size: int, shift: int) -> Tensor:
    """Attend as Swin describes: pad, roll, partition, mask, per window; then undo.

    A shifted map is cut into regions before it is rolled, at the last whole window and at the
    last half window; tokens of one window see each other if they are of one region.
    """
    batch, height, width, _ = x.shape
    rows, columns = -(-height // window_size) * window_size, -(-width // window_size) * window_size
    padded = x.new_zeros(batch, rows, columns, WIDTH)
    padded[:, :height, :width] = x
    real = torch.zeros(rows, columns, dtype=torch.bool)
    real[:height, :width] = True
    region = torch.zeros(rows, columns, dtype=torch.long)
    if shift:
        number = 0
        bounds = (slice(0, -window_size), slice(-window_size, -shift), slice(-shift, None))
        for vertical in bounds:
            for horizontal in bounds:
                region[vertical, horizontal] = number
                number += 1
    padded = padded.roll((-shift, -shift), (1, 2))
    real = real.roll((-shift, -shift), (0, 1))
    out = torch.zeros_like(padded)
    for b in range(batch):
        for top in range(0, rows, window_size):
            for left in range(0, columns, window_size):
                box = (slice(top, top + window_size), slice(left, left + window_size))
                tokens = padded[(b, *box)].reshape(window_size**2, WIDTH)
                there, part = real[box].flatten(), region[box].flatten()
                if not there.any():
                    continue
                seen = _one_window(attention, tokens[there], part[there], there, window_size)
                whole = torch.zeros_like(tokens)
                whole[there] = seen
                out[(b, *box)] = whole.reshape(window_size, window_size, WIDTH)
    return out.roll((shift, shift), (1, 2))[:, :height, :width]


def _one_window(
    attention: WindowAttention, tokens: Tensor, region: Tensor, there: Tensor, window_size: int
) -> Tensor:
    """Attend among the real tokens of one window; ``there`` says which places they have."""
    places = [divmod(int(i), window_size) for i in there.nonzero()[:, 0]]
    q, k, v = (tokens @ attention.qkv.weight.T + attention.qkv.bias).split(WIDTH, 1)
    heads = []
    for head in range(WIDTH // HEAD_WIDTH):
        own = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
        rows = []
        for i, (qy, qx) in enumerate(places):
            scores, values = [], []
            for j, (ky, kx) in enumerate(places):
                if region[i] != region[j]:
                    continue
                bias = attention.relative_position_bias[
                    head, qy - ky + window_size - 1, qx - kx + window_size - 1
                ]
                scores.append(q[i, own] @ k[j, own] / HEAD_WIDTH**0.5 + bias)
                values.append(v[j, own])
            rows.append(torch.stack(scores).softmax(0) @ torch.stack(values))
        heads.append(torch.stack(rows))
    return torch.cat(heads, 1) @ attention.proj.weight.T + attention.proj.bias


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shifted", [False, True], ids=["plain", "shifted"])
def test_it_attends_as_swin_describes(size: tuple[int, int], shifted: bool) -> None:
    attention = _attention(4, shifted=shifted)
    x = torch.randn(2, *size, WIDTH, dtype=torch.float64)
    expected = _plainly(attention, x, 4, 2 if shifted else 0)
    torch.testing.assert_close(attention(x), expected)


@pytest.mark.parametrize("shifted", [False, True], ids=["plain", "shifted"])
def test_its_gradients_are_those_of_the_plain_way(shifted: bool) -> None:
    attention = _attention(3, shifted=shifted)
    x = torch.randn(2, 4, 5, WIDTH, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(2, 4, 5, WIDTH, dtype=torch.float64)
    inputs = [x, *attention.parameters()]
    ours = torch.autograd.grad((attention(x) * direction).sum(), inputs)
    plainly = _plainly(attention, x, 3, 1 if shifted else 0)
    theirs = torch.autograd.grad((plainly * direction).sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_its_gradients_are_those_of_finite_differences() -> None:
    attention = WindowAttention(4, 2, 2, shifted=True).double()
    x = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attention, (x,))


def test_its_gradient_may_be_kept_in_a_graph_and_has_none_of_its_own() -> None:
    attention = WindowAttention(4, 2, 2, shifted=True).double()
    x = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(attention(x).square().sum(), x)
    (gradient,) = torch.autograd.grad(attention(x).square().sum(), x, create_graph=True)
    torch.testing.assert_close(gradient, expected)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


@pytest.mark.parametrize("size", SIZES)
def test_its_weights_sum_to_one_and_give_its_output(size: tuple[int, int]) -> None:
    attention = _attention(4, shifted=True)
    x = torch.randn(2, *size, WIDTH, dtype=torch.float64)
    weights, plan = attention.weights(x)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]).double())
    v = attention.qkv(plan.cut(x))[..., 2 * WIDTH :].unflatten(-1, (-1, HEAD_WIDTH))
    attended = (weights @ v.transpose(1, 2)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(plan.join(attention.proj(attended), size), attention(x))


def test_masked_pairs_have_no_weight_at_all() -> None:
    attention = _attention(4, shifted=True)
    weights, plan = attention.weights(torch.randn(2, 9, 5, WIDTH, dtype=torch.float64))
    masked = 0
    for group in plan.groups:
        if group.allowed is not None:
            hidden = weights[group.start : group.stop, :, ~group.allowed]
            masked += hidden.numel()
            assert (hidden == 0).all()
    assert masked > 0


def test_weights_without_the_bias_depend_on_content_alone() -> None:
    attention = _attention(4, shifted=False)
    x = torch.ones(1, 4, 4, WIDTH, dtype=torch.float64)
    weights, _ = attention.weights(x, with_bias=False)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 16))
    assert attention.weights(x)[0].std() > 0.01


def test_a_padded_map_is_seen_as_if_alone() -> None:
    attention = _attention(4, shifted=True)
    x = torch.randn(1, 5, 6, WIDTH, dtype=torch.float64)
    poisoned = torch.cat((x, torch.full_like(x, 1e6)))
    torch.testing.assert_close(attention(poisoned)[:1], attention(x))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_joining_undoes_cutting(size: tuple[int, int], shift: int) -> None:
    plan = window_plan(3, size, 4, shift, torch.device("cpu"))
    x = torch.randn(3, *size, 2, requires_grad=True)
    there_and_back = plan.join(plan.cut(x), size)
    assert torch.equal(there_and_back, x)
    (gradient,) = torch.autograd.grad(there_and_back.sum(), x)
    assert torch.equal(gradient, torch.ones_like(x))


def test_a_large_map_has_few_masks_and_none_inside() -> None:
    plan = window_plan(2, (64, 75), 4, 2, torch.device("cpu"))
    assert len(plan.groups) <= 9
    assert plan.groups[-1].stop == 2 * 16 * 19
    unmasked = sum(g.stop - g.start for g in plan.groups if g.allowed is None)
    assert unmasked == 2 * 15 * 18


def test_a_plan_made_while_inferring_serves_training() -> None:
    attention = _attention(4, shifted=True)
    x = torch.randn(1, 6, 11, WIDTH, dtype=torch.float64)
    with torch.inference_mode():
        attention(x)
    attention(x.requires_grad_()).sum().backward()
    assert x.grad is not None


def test_compiled_attention_and_a_compiled_codec_compute_the_same() -> None:
    program = [sys.executable, str(Path(__file__).parent / "compiled.py")]
    subprocess.run(program, check=True, capture_output=True, timeout=600)

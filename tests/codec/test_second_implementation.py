"""Successors' entropy models in float64 against a second, plain implementation of their papers.

The authors' vectors are float32, which can't show a relative error of 1e-9; this can. Layers are
applied one by one with torch's own functions, places are masks over whole maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import tcm_lab
from tcm_lab.blocks import WindowCrossAttention
from tcm_lab.blocks.dictionary import DictionaryAttention
from tcm_lab.codec.outputs import Latent

Place = tuple[int, int]


def _assert_same(found: Tensor, expected: Tensor) -> None:
    """Assert a relative error, over the largest value, of at most 1e-9."""
    assert found.dtype == expected.dtype == torch.float64
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()


def _randomised(module: torch.nn.Module) -> None:
    """Give every parameter, those that start at one value too, a value of its own."""
    for parameter in module.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))


@torch.no_grad()
def test_a_dictionary_is_asked_head_by_head_and_position_by_position() -> None:
    c_in, width, c_out, head_dim = 10, 12, 7, 4
    module = DictionaryAttention(c_in, width, c_out, head_dim, 2, 3).double()
    _randomised(module)
    x = torch.randn(2, c_in, 3, 5, dtype=torch.float64)
    entries = torch.randn(9, width, dtype=torch.float64)
    found = module(x, entries)

    def norm(layer: Any, rows: Tensor) -> Tensor:
        mean = rows.mean(-1, keepdim=True)
        deviation = (rows - mean).square().mean(-1, keepdim=True)
        return (rows - mean) / (deviation + layer.eps).sqrt() * layer.weight + layer.bias

    def linear(layer: Any, rows: Tensor) -> Tensor:
        return (rows[..., None, :] * layer.weight.flatten(1)).sum(-1) + layer.bias

    def pointwise(layer: Any, maps: Tensor) -> Tensor:
        return linear(layer, maps.movedim(1, -1)).movedim(-1, 1)

    rows = linear(module.widen, x.movedim(1, -1))
    aggregate: Any = module.aggregate
    scales = [pointwise(aggregate.start, norm(module.norm1, rows).movedim(-1, 1))]
    for _, first, _, depthwise, _, last in aggregate.layers:
        inner = F.gelu(pointwise(first, F.gelu(scales[-1])))
        inner = F.conv2d(inner, depthwise.weight, depthwise.bias, padding=1, groups=width)
        scales.append(pointwise(last, F.gelu(inner)))
    joined = pointwise(aggregate.join, torch.cat(scales, 1))
    pooled = torch.stack((joined.mean(1), joined.max(1).values), 1)
    gathered = joined / (1 + torch.exp(-F.conv2d(pooled, aggregate.gate.weight, padding=3)))
    rows = gathered.movedim(1, -1) + module.scale1 * rows
    known = norm(module.norm_entries, entries)
    asked, keys = linear(module.query, norm(module.norm2, rows)), linear(module.key, known)
    answers = torch.zeros_like(rows)
    for image, row, column in torch.cartesian_prod(*(torch.arange(n) for n in rows.shape[:3])):
        at = int(image), int(row), int(column)
        for head in range(width // head_dim):
            own = slice(head * head_dim, (head + 1) * head_dim)
            scores = (keys[:, own] @ asked[at][own]) * module.temperature[head, 0, 0]
            weights = torch.exp(scores) / torch.exp(scores).sum()
            answers[at][own] = weights @ known[:, own]
    rows = linear(module.proj, answers) + module.scale2 * rows
    rows = module.glu(norm(module.norm3, rows)) + module.scale3 * rows
    _assert_same(found, linear(module.narrow, rows).movedim(-1, 1))


@torch.no_grad()
def test_context_is_carried_on_window_by_window_and_head_by_head() -> None:
    module: Any = WindowCrossAttention(8, 4, 2).double()
    x, other = torch.randn(2, 1, 8, 4, 6, dtype=torch.float64)
    found = module(x, other)
    query, key, value, expected = (
        F.conv2d(maps, layer.weight, layer.bias)
        for layer, maps in (
            (module.query, x), (module.key, other), (module.value, other), (module.skip, x),
        )
    )  # fmt: skip
    for top in range(0, 4, 2):
        for left in range(0, 6, 2):
            for head in range(2):
                channels = slice(4 * head, 4 * head + 4)
                at = (0, channels, slice(top, top + 2), slice(left, left + 2))
                q, k, v = (maps[at].flatten(1) for maps in (query, key, value))
                weights = torch.exp(q.T @ k / 4**0.5)
                attended = (weights / weights.sum(1, keepdim=True)) @ v.T
                expected[at] += attended.T.view(4, 2, 2)
    _assert_same(found, expected)


#: As the page of facts has them: where each lattice lies in the next finer one, group by group...
HALF: Sequence[Place] = ((0, 0), (1, 1), (0, 1), (1, 0)) * 2
QUARTER: Sequence[Place] = ((0, 0), (0, 1), (1, 0), (1, 1))
#: ... and which places (row, column) of a cell each group takes, step by step.
M: Sequence[Place] = ((0, 0), (0, 1), (1, 0), (1, 1))
P: Sequence[Sequence[Place]] = (
    ((0, 0), (2, 2)), ((0, 2), (2, 0)), ((1, 1), (3, 3)), ((1, 3), (3, 1)),
    ((0, 1), (2, 3)), ((0, 3), (2, 1)), ((1, 0), (3, 2)), ((1, 2), (3, 0)),
)  # fmt: skip
EVEN, ODD = ((0, 0), (1, 1)), ((0, 1), (1, 0))
STEPS: Sequence[Sequence[Sequence[Sequence[Place]]]] = (
    ((EVEN, ODD), (ODD, EVEN)),
    tuple(tuple((M[m],) for m in order) for order in ((3, 2, 1, 0), (2, 3, 0, 1), (1, 0, 3, 2))),
    tuple(
        tuple(P[int(p)] for p in order)
        for order in ("24603571", "35712460", "46025713", "57134602", "60247135", "71356024")
    ),
)


def _coarser(maps: Tensor, places: Sequence[Place]) -> Tensor:
    groups = maps.chunk(len(places), 1)
    return torch.cat([g[..., r::2, c::2] for g, (r, c) in zip(groups, places, strict=True)], 1)


def _finer(maps: Tensor, places: Sequence[Place]) -> Tensor:
    """Return maps in the next finer lattice, with zeros between."""
    finer = maps.new_zeros(*maps.shape[:2], 2 * maps.shape[2], 2 * maps.shape[3])
    for to, group, (r, c) in zip(
        finer.chunk(len(places), 1), maps.chunk(len(places), 1), places, strict=True
    ):
        to[..., r::2, c::2] = group
    return finer


def _mask(like: Tensor, groups: Sequence[Sequence[Place]]) -> Tensor:
    """Return where a step codes, group by group."""
    cell = 4 if len(groups) == 8 else 2
    mask = torch.zeros_like(like, dtype=torch.bool)
    for part, places in zip(mask.chunk(len(groups), 1), groups, strict=True):
        for row, column in places:
            part[..., row::cell, column::cell] = True
    return mask


def _both(change: Any, maps: Tensor, places: Sequence[Place]) -> Tensor:
    """Change scales and means, each a map of the whole latent."""
    return torch.cat([change(half, places) for half in maps.chunk(2, 1)], 1)


@torch.no_grad()
def test_hpcm_s_walk_is_that_of_masks_over_whole_lattices() -> None:
    torch.manual_seed(0)
    kind = {"type": "hierarchical", "coarse": [1, 0], "fine": [0, 1], "head_dim": 8}
    codec = tcm_lab.build("hpcm-nano", {"latent_channels": 16, "entropy_model": kind})
    codec.double().eval()
    model: Any = codec.context_model
    _randomised(model)
    y = 4 * torch.randn(2, 16, 8, 12, dtype=torch.float64)
    hyper = torch.randn(2, 32, 8, 12, dtype=torch.float64)
    hyper[:, :16] = hyper[:, :16].abs()
    seen: list[tuple[Tensor, ...]] = []
    codec.gaussian_conditional.register_forward_pre_hook(lambda m, inputs: seen.append(inputs))
    y_hat, _ = codec.estimate_latent(model, Latent(y, [hyper], None))
    _, scales, means = seen[0]
    hypers = [hyper, _both(_coarser, hyper, HALF)]
    hypers.append(_both(_coarser, hypers[1], QUARTER))
    latents = [y, _coarser(y, HALF)]
    latents.append(_coarser(latents[1], QUARTER))
    context, known = hypers[2], torch.zeros_like(latents[2])
    found = [torch.zeros_like(latents[2]) for _ in range(2)]  # scales and means
    turn = 0
    for level, steps in enumerate(STEPS):
        if level:
            places = (QUARTER, HALF)[level - 1]
            inside = _finer(torch.ones_like(known), places).bool().repeat(1, 2, 1, 1)
            begun = _both(_finer, context, places)
            context = model.merges[level - 1](torch.where(inside, begun, hypers[2 - level]))
            known = _finer(known, places)
            found = [_finer(maps, places) for maps in found]
        for number, groups in enumerate(steps):
            now = context
            if level or number:
                x = model.adaptors[turn](torch.cat((context, known), 1))
                now = model.trunks["fine" if level == 2 else "coarse"](x, model.factors[turn])
                context = model.attentions[level](now, context)
                turn += 1
            here = _mask(known, groups)
            scale, mean = now.chunk(2, 1)
            symbols = (latents[2 - level] - mean).round()
            known = torch.where(here, symbols + mean, known)
            found = [torch.where(here, a, b) for a, b in zip((scale, mean), found, strict=True)]
    for ours, theirs in zip((y_hat, scales, means), (known, *found), strict=True):
        _assert_same(ours, theirs)

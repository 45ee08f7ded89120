"""The order in which a hierarchical entropy model codes the latent: three lattices, eleven steps.

HPCM (Li et al. 2025, section 3.2) codes a sixteenth of the latent on a lattice of a quarter of its
sides in two steps, three sixteenths on one of half its sides in three, and the rest in six. Each
lattice holds one element of each 4x4 (2x2) cell of every channel, at a place that depends on the
channel's group. In each step, every position of the lattice is coded in one group of channels, the
*owner* of the position; so what a step codes folds to a dense map of fewer channels.

Everything here is a list of indices into flattened maps, made once for each size and device; it
does not depend on a codec's weights or data.

Shape suffixes: M channels of the latent, h w its sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tcm_lab.codec.entropy_models.coder import Elements

#: What the sides of the latent, and its channels, must be multiples of.
CELL, GROUPS = 4, 8

Owners = tuple[tuple[int, ...], ...]
Place = tuple[int, int]

#: The place (row, column) in each 2x2 cell of the latent that the half lattice takes of a group.
_HALF: tuple[Place, ...] = 2 * ((0, 0), (1, 1), (0, 1), (1, 0))
#: The place in each 2x2 cell of the half lattice that the quarter lattice takes of a group of four.
_QUARTER: tuple[Place, ...] = ((0, 0), (0, 1), (1, 0), (1, 1))
#: Where the authors' code looks for the quarter lattice of each of the eight groups when it leaves
#: it out of the hyper parameters. It is right for the first two.
_NOMINAL: tuple[Place, ...] = 4 * ((0, 0),) + 4 * ((0, 1),)
#: Pairs of places in each 4x4 cell of the latent; a group has had two pairs in the half lattice.
_PAIRS: tuple[tuple[Place, Place], ...] = (
    ((0, 0), (2, 2)),
    ((0, 2), (2, 0)),
    ((1, 1), (3, 3)),
    ((1, 3), (3, 1)),
    ((0, 1), (2, 3)),
    ((0, 3), (2, 1)),
    ((1, 0), (3, 2)),
    ((1, 2), (3, 0)),
)


#: The quarter lattice's steps, two halves of the channels and two colours of a checkerboard: each
#: half one, then the other. An entry is the group that is coded at a row and column of the cell.
_QUARTER_STEPS: tuple[Owners, ...] = tuple(((i, 1 - i), (1 - i, i)) for i in (0, 1))
#: The half lattice's steps over four groups, at those places of each 2x2 cell that the quarter
#: lattice lacks: group g takes the place g ^ 3, then g ^ 2, then g ^ 1, counted by rows.
_HALF_STEPS: tuple[Owners, ...] = tuple(((i, i ^ 1), (i ^ 2, i ^ 3)) for i in (3, 2, 1))


def _full_steps() -> tuple[Owners, ...]:
    """Six steps over eight groups: those pairs that the half lattice lacks.

    The first four groups go round the eight pairs from that behind their own two; the other four
    do as they do with the two of a pair's neighbours exchanged.
    """
    steps = []
    for step in range(6):
        owners = [[0] * CELL for _ in range(CELL)]
        for group in range(GROUPS):
            pair = (2 * (group % 4) + 2 + step) % 8 ^ group // 4
            for row, column in _PAIRS[pair]:
                owners[row][column] = group
        steps.append(tuple(map(tuple, owners)))
    return tuple(steps)


#: The steps of each lattice: quarter, half, full.
STEPS = (_QUARTER_STEPS, _HALF_STEPS, _full_steps())


@dataclass(frozen=True)
class Step:
    """What one step codes, in order: a dense map (S, p, q) of each position's owner, flattened.

    Attributes:
        here: its elements' places in the lattice's flattened map.
        latent: their places in the flattened latent.
        places: the same as channels, rows and columns.
    """

    here: Int64[Tensor, " n"]
    latent: Int64[Tensor, " n"]
    places: Elements


@dataclass(frozen=True)
class Lattice:
    """One lattice, with as many channels as the latent.

    Attributes:
        latent: each of its elements' place in the flattened latent.
        entry: where its elements' context comes from when it is entered: a place in the flattened
            map of the lattice before, or, counted from that map's end, in the latent's hyper
            parameters. The first lattice has those alone.
        steps: the steps, in order.
    """

    latent: Int64[Tensor, "m p q"]
    entry: Int64[Tensor, "m p q"]
    steps: tuple[Step, ...]


def take(maps: Float[Tensor, "b k n"], places: Int64[Tensor, "*shape"]) -> Float[Tensor, "b k _"]:
    """Return the elements of flattened maps at flattened ``places``."""
    return maps.index_select(2, places.flatten())


def lattices(
    channels: int, size: tuple[int, int], device: torch.device, *, nominal: bool
) -> tuple[Lattice, ...]:
    """Return the quarter, half and full lattice of a latent; kept for the next one of that size.

    Args:
        channels: M, a multiple of `GROUPS`.
        size: (h, w), multiples of `CELL`.
        device: where the indices are used.
        nominal: whether the half lattice takes its hyper parameters from where the authors' code
            does: with the values of a channel in raster order, those outside the *nominal* places
            of the quarter lattice fill the places outside its true ones.
    """
    if torch.compiler.is_compiling():  # the compiler traces the indices into its graph
        return _lattices.__wrapped__(channels, size, device, nominal)
    # Tensors made in inference mode can't serve training, so each mode has indices of its own.
    return _lattices(channels, size, device, nominal, torch.is_inference_mode_enabled())


@lru_cache(maxsize=32)
def _lattices(
    channels: int, size: tuple[int, int], device: torch.device, nominal: bool, *_mode: bool
) -> tuple[Lattice, ...]:
    with torch.device("cpu"):  # where the indices are computed, whatever a device's context says
        full = torch.arange(channels * size[0] * size[1]).view(channels, *size)
        half = _of_cells(full, _HALF)
        quarter = _of_cells(half, _QUARTER)
        picked = _misplaced(half) if nominal else half
        entries = (quarter, _entry(picked, _QUARTER), _entry(full, _HALF))
        return tuple(
            Lattice(
                latent.to(device),
                entry.to(device),
                tuple(_step(owners, latent, size, device) for owners in steps),
            )
            for latent, entry, steps in zip((quarter, half, full), entries, STEPS, strict=True)
        )


def _of_cells(values: Tensor, places: tuple[Place, ...]) -> Tensor:
    """Return, of each 2x2 cell of (M, h, w), the place that each group of channels has."""
    groups = values.chunk(len(places))
    return torch.cat([group[:, r::2, c::2] for group, (r, c) in zip(groups, places, strict=True)])


def _outside(like: Tensor, places: tuple[Place, ...]) -> Tensor:
    """Return whether each element of maps (M, h, w) is at none of the groups' places."""
    own = torch.arange(like.numel()).view(like.shape)
    outside = torch.ones(like.numel(), dtype=torch.bool)
    outside[_of_cells(own, places).flatten()] = False
    return outside.view(like.shape)


def _misplaced(half: Tensor) -> Tensor:
    """Return the half lattice's places with those outside the quarter lattice picked nominally."""
    picked = half.clone()
    picked[_outside(half, _QUARTER)] = half[_outside(half, _NOMINAL)]
    return picked


def _entry(hyper: Tensor, coarser: tuple[Place, ...]) -> Tensor:
    """Return `Lattice.entry`: hyper parameters at ``hyper``, and at the places of the coarser."""
    known = hyper.numel() // 4
    entry = (hyper + known).flatten()
    inside = _of_cells(torch.arange(hyper.numel()).view(hyper.shape), coarser)
    entry[inside.flatten()] = torch.arange(known)
    return entry.view(hyper.shape)


def _step(owners: Owners, latent: Tensor, size: tuple[int, int], device: torch.device) -> Step:
    """Return the step in which each position of a lattice is coded in its owner's channels."""
    channels, rows, columns = latent.shape
    cell = torch.tensor(owners)
    repeats = -(-rows // cell.shape[0]), -(-columns // cell.shape[1])
    owner = cell.repeat(repeats)[:rows, :columns]
    width = channels // (1 + max(map(max, owners)))
    channel = owner * width + torch.arange(width)[:, None, None]
    here = (channel * (rows * columns) + torch.arange(rows * columns).view(rows, columns)).flatten()
    there = latent.flatten()[here]
    area = size[0] * size[1]
    place = (there // area, there % area // size[1], there % size[1])
    return Step(
        here=here.to(device),
        latent=there.to(device),
        places=Elements(*(index.to(device) for index in place)),
    )

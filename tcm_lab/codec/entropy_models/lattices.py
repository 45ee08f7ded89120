"""The order in which a hierarchical entropy model codes the latent: three lattices, eleven steps.

HPCM (Li et al. 2025, section 3.2) codes a sixteenth of the latent in two steps on a lattice with a
quarter of its sides, three sixteenths in three steps on one with half its sides, and the rest in
six steps. The coarse lattices hold one element of each 4x4 or 2x2 cell of every channel, at a place
that depends on the channel's group. In each step, every position of the lattice is coded in one
group of channels, the *owner* of the position, so that the coded elements fold to a dense map of
fewer channels.

This module makes lists of indices into flattened maps. They do not depend on a codec's weights or
data, so those of the last few sizes are kept: 18 bytes for each element of the latent.

Shape suffixes: M channels of the latent, h w its sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from tcm_lab.codec.entropy_models.coder import Elements

#: The sides of the latent are multiples of `CELL`, its channels of `GROUPS`.
CELL, GROUPS = 4, 8

Owners = tuple[tuple[int, ...], ...]
Place = tuple[int, int]

#: For each group, the place (row, column) in a 2x2 cell of the latent that the half lattice takes.
_HALF: tuple[Place, ...] = 2 * ((0, 0), (1, 1), (0, 1), (1, 0))
#: For each of four groups, the place in a 2x2 cell of the half lattice that the quarter one takes.
_QUARTER: tuple[Place, ...] = ((0, 0), (0, 1), (1, 0), (1, 1))
#: For each of eight groups, where the authors' code looks for the quarter lattice when it leaves it
#: out of the hyper parameters. Only the first two places are right.
_NOMINAL: tuple[Place, ...] = 4 * ((0, 0),) + 4 * ((0, 1),)
#: Pairs of places in each 4x4 cell of the latent; the half lattice holds two pairs of each group.
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


#: The quarter lattice's steps: each half of the channels codes one colour of a checkerboard, then
#: the other. An entry is the group that is coded at that row and column of the cell.
_QUARTER_STEPS: tuple[Owners, ...] = tuple(((i, 1 - i), (1 - i, i)) for i in (0, 1))
#: The half lattice's steps over four groups, at the places of each 2x2 cell that the quarter
#: lattice lacks: group g takes place g ^ 3, then g ^ 2, then g ^ 1, numbered by rows.
_HALF_STEPS: tuple[Owners, ...] = tuple(((i, i ^ 1), (i ^ 2, i ^ 3)) for i in (3, 2, 1))


def _full_steps() -> tuple[Owners, ...]:
    """Return six steps over eight groups: the pairs that the half lattice lacks.

    Each of the first four groups goes round the eight pairs, beginning after its own two. The other
    four do the same with neighbouring pairs exchanged.
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
    """The elements that a step codes: a dense map (S, p, q) of each position's owner, flattened.

    Attributes:
        here: indices of the elements in the lattice's flattened map.
        latent: their indices in the flattened latent.
        size: (h, w) of the latent.
    """

    here: Int32[Tensor, " n"]
    latent: Int32[Tensor, " n"]
    size: tuple[int, int]

    @property
    def places(self) -> Elements:
        """The same elements by channel, row and column."""
        h, w = self.size
        place = self.latent.long()
        return Elements(place // (h * w), place // w % h, place % w)


@dataclass(frozen=True)
class Lattice:
    """One lattice, with as many channels as the latent.

    Attributes:
        latent: index of each element in the flattened latent.
        entry: source of each element's context at the start: an index into the flattened map of the
            lattice before, followed by the latent's hyper parameters. The first lattice has the
            hyper parameters alone.
        steps: the steps, in order.
    """

    latent: Int32[Tensor, "m p q"]
    entry: Int32[Tensor, "m p q"]
    steps: tuple[Step, ...]


def take(maps: Float[Tensor, "b k n"], places: Int32[Tensor, "*shape"]) -> Float[Tensor, "b k _"]:
    """Return the elements of flattened maps at flattened ``places``."""
    return maps.index_select(2, places.flatten())


def lattices(
    channels: int, size: tuple[int, int], device: torch.device, *, nominal: bool
) -> tuple[Lattice, ...]:
    """Return the quarter, half and full lattice of a latent, cached by size and device.

    Args:
        channels: M, a multiple of `GROUPS`.
        size: (h, w), multiples of `CELL`.
        device: where the indices are used.
        nominal: whether the half lattice takes its hyper parameters from where the authors' code
            does: in the raster order of a channel, the values outside the *nominal* places of the
            quarter lattice fill the places outside its true ones.
    """
    if torch.compiler.is_compiling():  # the compiler traces the indices into its graph
        return _lattices.__wrapped__(channels, size, device, nominal)
    with torch.inference_mode(False):  # tensors made in that mode cannot be used in training
        return _lattices(channels, size, device, nominal)


@lru_cache(maxsize=4)
def _lattices(
    channels: int, size: tuple[int, int], device: torch.device, nominal: bool
) -> tuple[Lattice, ...]:
    with torch.device("cpu"):  # the indices are computed here, in any device context
        full = torch.arange(channels * size[0] * size[1]).view(channels, *size)
        half = _of_cells(full, _HALF)
        quarter = _of_cells(half, _QUARTER)
        picked = _misplaced(half) if nominal else half
        entries = (quarter, _entry(picked, _QUARTER), _entry(full, _HALF))
        return tuple(
            Lattice(
                latent.to(device, torch.int32),
                entry.to(device, torch.int32),
                tuple(_step(owners, latent, size, device) for owners in steps),
            )
            for latent, entry, steps in zip((quarter, half, full), entries, STEPS, strict=True)
        )


def _of_cells(values: Tensor, places: tuple[Place, ...]) -> Tensor:
    """Return the values at each group's place in every 2x2 cell of (M, h, w)."""
    groups = values.chunk(len(places))
    return torch.cat([group[:, r::2, c::2] for group, (r, c) in zip(groups, places, strict=True)])


def _outside(like: Tensor, places: tuple[Place, ...]) -> Tensor:
    """Return whether each element of maps (M, h, w) is at none of the groups' places."""
    own = torch.arange(like.numel()).view(like.shape)
    outside = torch.ones(like.numel(), dtype=torch.bool)
    outside[_of_cells(own, places).flatten()] = False
    return outside.view(like.shape)


def _misplaced(half: Tensor) -> Tensor:
    """Return the half lattice, with elements outside the quarter one taken by nominal places."""
    picked = half.clone()
    picked[_outside(half, _QUARTER)] = half[_outside(half, _NOMINAL)]
    return picked


def _entry(hyper: Tensor, coarser: tuple[Place, ...]) -> Tensor:
    """Return `Lattice.entry`: the ``coarser`` lattice at its places, else hyper parameters."""
    known = hyper.numel() // 4
    entry = (hyper + known).flatten()
    inside = _of_cells(torch.arange(hyper.numel()).view(hyper.shape), coarser)
    entry[inside.flatten()] = torch.arange(known)
    return entry.view(hyper.shape)


def _step(owners: Owners, latent: Tensor, size: tuple[int, int], device: torch.device) -> Step:
    """Return the step that codes each position of a lattice in its owner's channels."""
    channels, rows, columns = latent.shape
    cell = torch.tensor(owners)
    repeats = -(-rows // cell.shape[0]), -(-columns // cell.shape[1])
    owner = cell.repeat(repeats)[:rows, :columns]
    width = channels // (1 + max(map(max, owners)))
    channel = owner * width + torch.arange(width)[:, None, None]
    here = (channel * (rows * columns) + torch.arange(rows * columns).view(rows, columns)).flatten()
    there = latent.flatten()[here]
    return Step(here.to(device, torch.int32), there.to(device, torch.int32), size)

"""Cut feature maps of any size into attention windows, and join them again.

A plan is made once for a batch of maps of one size and shared by every block that cuts such maps:
one gather cuts, shifts and pads, another undoes all three. Windows with the same mask are
consecutive, so a mask is never repeated per window: however large the map, there are at most nine
groups, and inner windows need no mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class WindowGroup:
    """Windows that share a mask.

    Attributes:
        start: first window of the group.
        stop: one past its last window.
        allowed: (N, N) whether token q may see token k; None if all see all.
    """

    start: int
    stop: int
    allowed: Bool[Tensor, "n n"] | None

    def masked(self, bias: Float[Tensor, "heads n n"]) -> Float[Tensor, "heads n n"]:
        """Return the bias with minus infinity where a token may not see another."""
        return bias if self.allowed is None else bias.masked_fill(~self.allowed, float("-inf"))


@dataclass(frozen=True)
class WindowPlan:
    """Where each token of each window comes from, and where each token of the map goes.

    Attributes:
        tokens: window side squared, N.
        source: for each token of each window, its row in the flattened map (padding: any row).
        target: for each row of the flattened map, its place among the windows' tokens.
        padding: which of the windows' tokens are padding; None if none is.
        groups: the windows by mask, in order; together they are all windows.
    """

    tokens: int
    source: Int[Tensor, " t"]
    target: Int[Tensor, " p"]
    padding: Bool[Tensor, " t"] | None
    groups: tuple[WindowGroup, ...]

    def rows_of(self, windows: slice) -> tuple[Int[Tensor, " t"], Int[Tensor, " t"]]:
        """Return the rows of the flattened map that some windows' tokens come from and go to.

        Padding goes to a row after the map's last one.
        """
        tokens = slice(windows.start * self.tokens, windows.stop * self.tokens)
        source = self.source[tokens]
        if self.padding is None:
            return source, source
        return source, source.masked_fill(self.padding[tokens], len(self.target))

    def cut(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "n t c"]:
        """Cut maps (B, H, W, C) into windows (B·windows, N, C)."""
        rows = _gather(x.flatten(0, 2), self.source, self.target, None)
        windows: Tensor = rows.unflatten(0, (-1, self.tokens))
        return windows

    def join(
        self, windows: Float[Tensor, "n t c"], size: tuple[int, int]
    ) -> Float[Tensor, "b h w c"]:
        """Join windows (B·windows, N, C) to maps (B, H, W, C) of ``size`` (H, W)."""
        rows = _gather(windows.flatten(0, 1), self.target, self.source, self.padding)
        maps: Tensor = rows.unflatten(0, (-1, *size))
        return maps


class _Permute(torch.autograd.Function):
    """``rows[index]`` whose gradient is a gather too, since each real row is taken once."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor, dropped: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(inverse, dropped)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        inverse, dropped = ctx.saved_tensors
        gradient = gradient.index_select(0, inverse)
        if dropped is not None:
            gradient = gradient.masked_fill_(dropped[:, None], 0)
        return gradient, None, None, None


def _gather(rows: Tensor, index: Tensor, inverse: Tensor, dropped: Tensor | None) -> Tensor:
    """Return ``rows[index]``; rows marked ``dropped`` are in no result and get no gradient."""
    if torch.is_grad_enabled() and rows.requires_grad and not torch.compiler.is_compiling():
        return _Permute.apply(rows, index, inverse, dropped)  # type: ignore[no-any-return,no-untyped-call]
    return rows.index_select(0, index)


def window_plan(
    batch: int, size: tuple[int, int], window_size: int, shift: int, device: torch.device
) -> WindowPlan:
    """Plan the windows of ``batch`` maps of one size; plans are cached.

    The map is padded at its lower right to whole windows and rolled by ``shift``. Two tokens see
    each other if both are real and were not brought together by the roll (Swin, Liu et al. 2021,
    section 3.2); padding sees padding, so that no softmax is empty, and is dropped by ``join``.
    All sizes are in tokens; ``size`` is (height, width).
    """
    if torch.compiler.is_compiling():  # the compiler traces the plan into its graph
        return _plan.__wrapped__(batch, size, window_size, shift, device)
    # Tensors made in inference mode cannot be used in training, so each mode has its own plans.
    return _plan(batch, size, window_size, shift, device, torch.is_inference_mode_enabled())


@lru_cache(maxsize=64)
def _plan(
    batch: int,
    size: tuple[int, int],
    window_size: int,
    shift: int,
    device: torch.device,
    *_mode: bool,
) -> WindowPlan:
    height, width = size
    groups: list[WindowGroup] = []
    sources, paddings, start = [], [], 0
    columns = _axis(width, window_size, shift, device)
    for y, y_regions in _axis(height, window_size, shift, device):
        for x, x_regions in columns:
            sources.append((y[:, None, :, None] * width + x[None, :, None, :]).flatten(0, 1))
            padded = (y >= height)[:, None, :, None] | (x >= width)[None, :, None, :]
            paddings.append(padded.flatten(0, 1))
            regions = [-1 if a < 0 or b < 0 else 2 * a + b for a in y_regions for b in x_regions]
            stop = start + batch * len(y) * len(x)
            allowed = None
            if min(regions) != max(regions):
                region = torch.tensor(regions, device=device)
                allowed = region[:, None] == region[None, :]
            groups.append(WindowGroup(start, stop, allowed))
            start = stop
    # Each window occurs once for every map of the batch, one after the other.
    first_row = torch.arange(batch, device=device)[:, None] * (height * width)
    padding = torch.cat(paddings).flatten(1)[:, None].expand(-1, batch, -1).flatten()
    source = (torch.cat(sources).flatten(1)[:, None] + first_row).flatten().masked_fill(padding, 0)
    rows = batch * height * width
    target = torch.zeros(rows + 1, dtype=torch.long, device=device)  # plus one for all padding
    places = torch.arange(len(source), device=device)
    target = target.scatter(0, source.masked_fill(padding, rows), places)
    return WindowPlan(
        tokens=window_size**2,
        source=source,
        target=target[:rows],
        padding=padding if height % window_size or width % window_size else None,
        groups=tuple(groups),
    )


def _axis(
    length: int, window_size: int, shift: int, device: torch.device
) -> list[tuple[Tensor, tuple[int, ...]]]:
    """Cut one axis into windows, grouped by the regions of their tokens.

    Returns:
        For each kind of window, the positions (windows, window_size) before the roll, and the
        region of each place: -1 is padding, 1 is what the roll moved there from the other end.
    """
    count = -(-length // window_size)
    whole = count * window_size
    alike: dict[tuple[int, ...], list[int]] = {}
    # Only the last two windows can hold padding or the seam of the roll.
    plain = max(count - 2, 0)
    if plain:
        alike[(0,) * window_size] = list(range(plain))
    for window in range(plain, count):
        places = range(window * window_size, (window + 1) * window_size)
        regions = tuple(
            int(place >= whole - shift) if (place + shift) % whole < length else -1
            for place in places
        )
        alike.setdefault(regions, []).append(window)
    within = torch.arange(window_size, device=device) + shift
    return [
        (
            (torch.tensor(windows, device=device)[:, None] * window_size + within) % whole,
            regions,
        )
        for regions, windows in alike.items()
    ]

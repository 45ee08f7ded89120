"""How a feature map is cut into attention windows and put together again, for any size.

A plan is made once for a batch of maps of one size and then shared by every block that cuts such
maps: one gather cuts, shifts and pads, one gather undoes all three. Windows are ordered so that
those with the same mask stand together, so a mask is never repeated per window: however large the
map, there are at most nine kinds of window, and all inner ones need no mask at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class WindowGroup:
    """Windows that share a mask.

    Attributes:
        start: first window of the group.
        stop: one past its last window.
        allowed: (N, N) whether token q may see token k; None where all see all.
    """

    start: int
    stop: int
    allowed: Bool[Tensor, "n n"] | None

    def masked(self, bias: Float[Tensor, "heads n n"]) -> Float[Tensor, "heads n n"]:
        """Return the bias with minus infinity where a token may not see another."""
        return bias if self.allowed is None else bias.masked_fill(~self.allowed, float("-inf"))


@dataclass(frozen=True)
class WindowPlan:
    """Where each token of each window comes from, and where each token of the map went.

    Attributes:
        tokens: window side squared, N.
        source: for each token of each window, its row in the flattened map (padding: any row).
        target: for each row of the flattened map, its place among the windows' tokens.
        padding: which of the windows' tokens are padding; None where none is.
        groups: the windows by mask, in order; together they are all windows.
    """

    tokens: int
    source: Int[Tensor, " t"]
    target: Int[Tensor, " p"]
    padding: Bool[Tensor, " t"] | None
    groups: tuple[WindowGroup, ...]

    def rows_of(self, windows: slice) -> tuple[Int[Tensor, " t"], Int[Tensor, " t"]]:
        """Return where some windows' tokens come from and go to in the flattened map.

        Padding goes to the row behind the map's last one.
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
    if torch.is_grad_enabled() and rows.requires_grad:
        return _Permute.apply(rows, index, inverse, dropped)  # type: ignore[no-any-return,no-untyped-call]
    return rows.index_select(0, index)


@lru_cache(maxsize=64)
def window_plan(
    batch: int, size: tuple[int, int], window_size: int, shift: int, device: torch.device
) -> WindowPlan:
    """Plan the windows of ``batch`` maps of one size.

    The map is padded at its lower right to whole windows and rolled by ``shift``. Two tokens see
    each other if both are real and were not brought together by the roll (Swin, Liu et al. 2021,
    section 3.2); padding sees padding, so that no softmax is empty, and is dropped by ``join``.

    Args:
        batch: number of maps.
        size: their (height, width) in tokens.
        window_size: side of a window in tokens.
        shift: how far the windows are moved down and right; 0 for plain windows.
        device: where the plan's tensors live.
    """
    height, width = size
    rows, columns = -(-height // window_size), -(-width // window_size)
    y, y_region = _rolled_axis(height, rows * window_size, window_size, shift)
    x, x_region = _rolled_axis(width, columns * window_size, window_size, shift)

    def windows_of(grid: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        cut = grid.reshape(rows, window_size, columns, window_size).swapaxes(1, 2)
        return cut.reshape(rows * columns, window_size**2)

    source = windows_of(y[:, None] * width + x[None, :])
    padded = windows_of((y_region[:, None] < 0) | (x_region[None, :] < 0))
    region = np.where(padded, -1, windows_of(y_region[:, None] * 2 + x_region[None, :]))

    # Windows with the same regions in the same places share a mask: put them side by side.
    kinds, kind_of = np.unique(region, axis=0, return_inverse=True)
    order = np.argsort(kind_of.reshape(-1), kind="stable")
    counts = np.bincount(kind_of.reshape(-1)) * batch

    source, padded = source[order], padded[order]
    source = np.where(padded, 0, source)[:, None, :] + (np.arange(batch) * height * width)[:, None]
    padded = np.broadcast_to(padded[:, None, :], source.shape).reshape(-1)
    source = source.reshape(-1)
    target = np.empty(batch * height * width, dtype=np.int64)
    target[source[~padded]] = np.flatnonzero(~padded)

    # The plan is shared: it must serve training even if inference mode asked for it first.
    with torch.inference_mode(mode=False):
        groups, start = [], 0
        for kind, count in zip(kinds, counts.tolist(), strict=True):
            allowed = None
            if kind.min() != kind.max():
                allowed = torch.from_numpy(kind[:, None] == kind[None, :]).to(device)
            groups.append(WindowGroup(start, start + count, allowed))
            start += count
        return WindowPlan(
            tokens=window_size**2,
            source=torch.from_numpy(source).to(device),
            target=torch.from_numpy(target).to(device),
            padding=torch.from_numpy(padded.copy()).to(device) if padded.any() else None,
            groups=tuple(groups),
        )


def _rolled_axis(
    length: int, padded_length: int, window_size: int, shift: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return, per place of a rolled axis, its position before and its region (-1: padding)."""
    position = (np.arange(padded_length) + shift) % padded_length
    # Places that the roll brought round from the other end are a region of their own; where
    # nothing is rolled, or all in one window is, there is one region.
    wrapped = np.arange(padded_length) >= padded_length - shift
    return position, np.where(position < length, wrapped.astype(np.int64), -1)

"""What entropy models that code slices one after the other share: hiding the slice just before."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SliceChain(nn.Module):
    """An entropy model that codes slices one after the other, and may hide the last one."""

    _lag = 0

    def known(self, decoded: Sequence[Tensor]) -> list[Tensor]:
        """Return what the next slice sees of those before: zeros for one that is hidden."""
        seen = len(decoded) - self._lag
        return [y if i < seen else torch.zeros_like(y) for i, y in enumerate(decoded)]

    def lagged(self) -> SliceChain:
        """Return a copy whose slices don't see the slice just before them."""
        twin = copy.deepcopy(self)
        twin._lag = 1
        return twin

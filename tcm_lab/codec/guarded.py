"""A model whose weights are read only while no thread has converted their precision."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn

from tcm_lab._compat.torchvision import import_compressai
from tcm_lab._utils.locks import SharedLock
from tcm_lab.codec.state_dicts import table_names

_CompressionModel: Any = import_compressai().models.CompressionModel


class GuardedModel(_CompressionModel):
    """A CompressAI ``CompressionModel`` for several threads: portable coding changes its weights.

    It holds those of the entropy path in float64 for a while.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = SharedLock()

    def reading(self) -> AbstractContextManager[None]:
        """Keep the weights as they are inside the ``with`` block: no thread codes portably.

        All methods that use the weights do so themselves. ``compress`` and ``decompress`` of
        portable streams are refused inside the block.
        """
        return nullcontext() if torch.compiler.is_compiling() else self._lock.shared()

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return weights and buffers by their names, in their own precision."""
        with self.reading():
            return super().state_dict(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy that is independent of what other threads do with this model."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        with self.reading():
            copied.__setstate__(copy.deepcopy(self.__dict__, memo))
        return copied

    def aux_loss(self) -> Tensor:
        """Return the loss that trains the quantiles of z's prior; zero for one without them."""
        with self.reading():
            device = self.entropy_bottleneck.medians().device
            loss: Tensor = torch.as_tensor(super().aux_loss(), device=device)
        return loss

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load weights; the coding tables are rebuilt when they are next needed."""
        return nn.Module.load_state_dict(self, state_dict, strict=strict, assign=assign)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Keep the current tables, also when an outer module is loaded.

        Tables in ``state_dict``, which is torch's own copy, have sizes that depend on its weights.
        """
        tables = table_names(self)
        own = {name: value for name, value in self.state_dict().items() if name in tables}
        state_dict.update({f"{prefix}{name}": value for name, value in own.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)

"""Peak memory of a forward pass: what tensors take at most, weights included.

On a GPU the allocator knows. Anywhere else the pass runs on the meta device and every tensor's
storage is followed from its making to its end, which needs no memory at all and gives the same
figure on every machine. Attention is taken as fused, as torch's kernels compute it. Not in the
figure: what a kernel borrows while it runs (an unfolded image, say).
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from tcm_lab.complexity._dispatch import OperatorMode
from tcm_lab.complexity._meta import fused_attention, meta_image, meta_pass


def peak_memory(model: nn.Module, size: tuple[int, int]) -> int:
    """Return the peak bytes of one forward pass on one image.

    Args:
        model: on the meta device, or on a GPU.
        size: (height, width) of the image, as the networks see it.
    """
    device = next(model.parameters()).device
    if device.type == "cuda":
        return _peak_of_allocator(model, size, device)
    image = meta_image(size)
    ledger = _Ledger()
    for tensor in [*model.parameters(), *model.buffers(), image]:
        ledger.see(tensor)
    with meta_pass(model), fused_attention(_fused), ledger:
        model(image)
    return ledger.peak


def _fused(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """Write the result of attention and nothing else: no scores are kept."""
    return query.new_empty(*query.shape[:-1], value.shape[-1])


class _Ledger(OperatorMode):
    """Adds up the bytes of all storages that are alive, and remembers the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = 0
        self.peak = 0
        self._seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def operate(self, operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run the operator and follow what it makes."""
        out = operator(*args, **kwargs)
        for leaf in tree_iter(out):
            if isinstance(leaf, Tensor):
                self.see(leaf)
        return out

    def see(self, tensor: Tensor) -> None:
        """Count the storage behind ``tensor`` once, until nothing holds it any more."""
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._seen:
            return
        count = storage.nbytes()

        def free(_: object) -> None:
            self.alive -= count
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, free)
        self.alive += count
        self.peak = max(self.peak, self.alive)


def _peak_of_allocator(model: nn.Module, size: tuple[int, int], device: torch.device) -> int:
    """Run the pass once and ask CUDA's allocator."""
    image = torch.rand(1, 3, *size, device=device)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    with torch.no_grad():
        model(image)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)

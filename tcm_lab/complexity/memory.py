"""Peak memory of a forward pass or of decoding: what tensors take at most, weights included.

On a GPU the allocator knows. Anywhere else the pass runs on the meta device and every tensor's
storage is followed from its making to its end, which needs no memory at all and gives the same
number on every machine. Attention is taken as fused, as torch's kernels compute it. Not counted:
what a kernel borrows while it runs (an unfolded image, say).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from tcm_lab.complexity.counters.meta import FunctionMode, OperatorMode, meta_image, meta_pass
from tcm_lab.complexity.record import ABSENT
from tcm_lab.complexity.target import Target


def peak_memory(model: nn.Module, size: tuple[int, int]) -> int:
    """Return the peak bytes of one forward pass on one image.

    Args:
        model: on the meta device, or on a GPU.
        size: (height, width) of the image, as the networks see it.
    """
    device = next(model.parameters()).device
    if device.type == "cuda":
        return _peak_of_allocator(model, size, device)
    return _peak_of_shapes(model, size)


def decode_peak_memory(target: Target, size: tuple[int, int]) -> int:
    """Return the peak bytes of what the decoder runs on one image.

    A forward pass is followed from where its encoder ends, without the encoder's weights, the
    image and the latents as the encoder wrote them. The likelihoods that the pass computes stand
    for the symbols that a decoder reads.

    Args:
        target: the codec.
        size: (height, width) of the image, as the networks see it.
    """
    encoder = [
        module
        for name, module in target.on_meta.named_modules()
        if target.part_of(name) in ABSENT["decode"]
    ]
    return _peak_of_shapes(target.on_meta, size, encoder)


def _peak_of_shapes(
    model: nn.Module, size: tuple[int, int], without: Iterable[nn.Module] = ()
) -> int:
    image, without = meta_image(size), list(without)
    left_out = {id(parameter) for module in without for parameter in module.parameters()}
    tensors = _Storages()
    for weight in [*model.parameters(), *model.buffers()]:
        if id(weight) not in left_out:
            tensors.see(weight)
    tensors.keep_so_far()
    tensors.see(image)
    handles = [module.register_forward_hook(lambda *_: tensors.restart()) for module in without]
    try:
        with meta_pass(model), FunctionMode({F.scaled_dot_product_attention: _fused}), tensors:
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return tensors.peak


def _fused(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """Write the result of attention and nothing else: no scores are kept."""
    return query.new_empty(*query.shape[:-1], value.shape[-1])


class _Storages(OperatorMode):
    """Adds up the bytes of all storages that are alive, and remembers the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive = 0
        self._kept: set[int] = set()
        self._bytes: dict[int, int] = {}
        self._references: dict[int, weakref.ref[torch.UntypedStorage]] = {}

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
        if key in self._bytes:
            return

        def free(_: object) -> None:
            self._alive -= self._bytes.pop(key, 0)
            self._references.pop(key, None)

        self._references[key] = weakref.ref(storage, free)
        self._bytes[key] = storage.nbytes()
        self._alive += self._bytes[key]
        self.peak = max(self.peak, self._alive)

    def keep_so_far(self) -> None:
        """Let everything that is alive now outlast every restart."""
        self._kept = set(self._bytes)

    def restart(self) -> None:
        """Begin again: what is alive now and is not kept counts as nothing."""
        self._bytes = {k: n if k in self._kept else 0 for k, n in self._bytes.items()}
        self._alive = self.peak = sum(self._bytes.values())


def _peak_of_allocator(model: nn.Module, size: tuple[int, int], device: torch.device) -> int:
    """Run the pass once and ask CUDA's allocator."""
    image = torch.rand(1, 3, *size, device=device)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    with torch.no_grad():
        model(image)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)

"""Peak memory of a forward pass or of decoding: the most that tensors take, weights included.

The pass runs on the meta device, and every tensor's storage is tracked from creation to release.
This needs no memory at all, and gives the same number on every machine. Attention counts as fused,
as torch's kernels compute it. The workspace of kernels (an unfolded image, say) is not counted. A
`TimingRecord` holds the peak of a GPU's allocator.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from tcm_lab._utils.hooks import hooked
from tcm_lab.complexity.counters.meta import FunctionMode, OperatorMode, image_for, meta_pass
from tcm_lab.complexity.target import Target


def peak_memory(model: nn.Module, size: tuple[int, int], without: Sequence[nn.Module] = ()) -> int:
    """Return the peak bytes of one forward pass on one image.

    Args:
        model: on the meta device.
        size: (height, width) of the image, as the networks see it.
        without: modules to leave out: their weights, and all that is alive when they end.
    """
    image = image_for(model, size)
    left_out = {id(parameter) for module in without for parameter in module.parameters()}
    tensors = _Storages()
    for weight in [*model.parameters(), *model.buffers()]:
        if id(weight) not in left_out:
            tensors.see(weight)
    tensors.keep_so_far()
    tensors.see(image)
    ends = [module.register_forward_hook(lambda *_: tensors.restart()) for module in without]
    fused = FunctionMode({F.scaled_dot_product_attention: _fused})
    with hooked(ends), meta_pass(model), fused, tensors:
        model(image)
    return tensors.peak


def decode_peak_memory(target: Target, size: tuple[int, int]) -> int:
    """Return the peak bytes of decoding one image.

    A forward pass is tracked from the end of its encoder, without the encoder's weights, the image
    and the latents as the encoder wrote them. The likelihoods that the pass computes replace the
    symbols that a decoder reads.

    Args:
        target: the codec.
        size: (height, width) of the image, as the networks see it.
    """
    encoder = [
        module
        for name, module in target.runnable.named_modules()
        if target.part_of(name) in target.absent["decode"]
    ]
    return peak_memory(target.runnable, size, encoder)


def _fused(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """Return the result of attention, and store no scores."""
    return query.new_empty(*query.shape[:-1], value.shape[-1])


class _Storages(OperatorMode):
    """Adds up the bytes of all living storages, and keeps their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive = 0
        self._kept: set[int] = set()
        self._bytes: dict[int, int] = {}
        self._references: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def operate(self, operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run the operator and track its results."""
        out = operator(*args, **kwargs)
        for leaf in tree_iter(out):
            if isinstance(leaf, Tensor):
                self.see(leaf)
        return out

    def see(self, tensor: Tensor) -> None:
        """Count the storage behind ``tensor`` once, until it is released."""
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
        """Mark everything that is alive now to survive every restart."""
        self._kept = set(self._bytes)

    def restart(self) -> None:
        """Start again: everything that is alive now and is not marked counts as nothing."""
        self._bytes = {k: n if k in self._kept else 0 for k, n in self._bytes.items()}
        self._alive = self.peak = sum(self._bytes.values())

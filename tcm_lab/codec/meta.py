"""Building without data: models whose tensors have shapes and no values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tcm_lab._compat.torchvision import import_compressai


def build_on_meta(assemble: Callable[[], nn.Module]) -> nn.Module:
    """Return what ``assemble`` builds, on torch's meta device and, if it can be, never elsewhere.

    `torch.device("meta")` alone misses ``torch.Tensor([...])``, which CompressAI's GDN and entropy
    models make on the CPU and then mix with others; what is mixed moves to the meta device.
    """
    import_compressai()  # its import makes tensors, which must have data
    try:
        with torch.device("meta"), _MixedOnMeta():
            model = assemble()
    except (NotImplementedError, RuntimeError):
        # A user's layer that reads a tensor while it is built needs one with data.
        model = assemble()
    return model.to("meta")


class _MixedOnMeta(TorchFunctionMode):
    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        on_meta = [arg.is_meta for arg in args if isinstance(arg, Tensor)]
        if any(on_meta) and not all(on_meta):
            args = [arg.to("meta") if isinstance(arg, Tensor) else arg for arg in args]
        return function(*args, **(kwargs or {}))

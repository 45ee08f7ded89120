"""One view of every codec: assembled here, CompressAI's, or a user's own module.

What differs between them (the configuration, the stride that images are padded to, rate levels,
which part a parameter belongs to) is asked here and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tcm_lab.codec.config import VariantConfig

_FOREIGN_STRIDE = 64
_FOREIGN_LATENT_STRIDE = 16
_FOREIGN_LATENT_CHANNELS = 320
_TRANSFORMS = ("g_a", "g_s", "h_a", "h_s")
_TOP_PARTS = {
    "entropy_bottleneck": "prior",
    "gaussian_conditional": "prior",
    "y_gains": "gain",
    "z_gains": "gain",
}


@dataclass(frozen=True)
class CodecAdapter:
    """What the lab asks of any codec with CompressAI's interface.

    That is ``forward``, and for real bytes ``compress`` and ``decompress``.
    """

    module: nn.Module

    def __post_init__(self) -> None:
        """Look through data parallelism; a compiled module answers for the one inside."""
        if isinstance(self.module, nn.DataParallel | DistributedDataParallel):
            object.__setattr__(self, "module", self.module.module)

    @property
    def config(self) -> VariantConfig | None:
        """The configuration it was assembled from, or ``None`` for a foreign codec."""
        config = getattr(self.module, "config", None)
        return config if isinstance(config, VariantConfig) else None

    @property
    def name(self) -> str:
        """What tables call it."""
        return type(self.module).__name__ if self.config is None else self.config.name

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits: of the configuration, or of a foreign codec's parameter shapes."""
        if self.config is not None:
            return self.config.fingerprint
        shapes = {name: list(p.shape) for name, p in self.module.named_parameters()}
        return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def description(self) -> str | dict[str, Any]:
        """The whole configuration as plain values, or a foreign codec's name."""
        return self.name if self.config is None else self.config.model_dump(mode="json")

    @property
    def rate_levels(self) -> int:
        """Number of rates that one set of weights holds; 0 for a single rate."""
        return int(getattr(self.config or self.module, "rate_levels", 0))

    @property
    def latent_channels(self) -> int:
        """Channels of y; a foreign codec's attribute ``M``, as CompressAI's models have it."""
        if self.config is not None:
            return self.config.latent_channels
        channels = getattr(self.module, "M", None)
        return channels if isinstance(channels, int) else _FOREIGN_LATENT_CHANNELS

    @property
    def stride(self) -> int:
        """Number of pixels that both sides are padded to a multiple of."""
        if self.config is not None:
            return self.config.padding
        # In CompressAI's models: the stride of z, or of y where there is no z.
        return int(getattr(self.module, "downsampling_factor", _FOREIGN_STRIDE))

    @property
    def latent_stride(self) -> int:
        """Number of pixels per position of y."""
        if self.config is not None:
            return self.config.stride[0]
        return min(self.stride, _FOREIGN_LATENT_STRIDE)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        tensor = next(self.module.parameters(), None)
        return torch.device("cpu") if tensor is None else tensor.device

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) that an image of ``size`` is padded to."""
        return -(-size[0] // self.stride) * self.stride, -(-size[1] // self.stride) * self.stride

    def pad(self, x: Tensor) -> Tensor:
        """Pad a foreign codec's images (B, 3, H, W) by their last row and column.

        Codecs that are assembled here pad by themselves; theirs come back as they are.
        """
        height, width = self.padded_size((x.shape[-2], x.shape[-1]))
        missing = (0, width - x.shape[-1], 0, height - x.shape[-2])
        if self.config is not None or not any(missing):
            return x
        return F.pad(x, missing, mode="replicate")

    def forward(self, x: Tensor, rate: float | None = None) -> Mapping[str, Any]:
        """Run a forward pass; a codec with rate levels takes the lowest if none is given."""
        if rate is None and self.rate_levels:
            rate = 0.0
        options = {} if rate is None else {"rate": rate}
        return self.module(x, **options)  # type: ignore[no-any-return]  # nn.Module's typing

    def part_of(self, name: str) -> str:
        """Return the part that the module or parameter called ``name`` belongs to."""
        path = name.removeprefix("_orig_mod.").split(".")
        if self.config is not None:
            if path[0] == self.config.entropy_model.module_name:
                return self.config.entropy_model.part_of(".".join(path[1:]))
            return _TOP_PARTS.get(path[0], path[0])
        # CompressAI's newer models keep h_a and h_s inside nested latent codecs.
        transform = next((step for step in path if step in _TRANSFORMS), path[0])
        return _TOP_PARTS.get(transform, transform)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside what ``torch.compile``, DataParallel or DDP made of it."""
    if isinstance(model, nn.DataParallel | DistributedDataParallel):
        return unwrapped(model.module)
    inner = getattr(model, "_orig_mod", model)
    return unwrapped(inner) if inner is not model else model


def bits(likelihoods: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the bits of every image by its likelihoods, summed in ``dtype``: (B,)."""
    parts = [part.to(dtype).log().flatten(1).sum(1) for part in likelihoods.values()]
    return torch.stack([part / -math.log(2) for part in parts]).sum(0)

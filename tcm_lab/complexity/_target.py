"""What is to be measured: one of our configurations, or a model that somebody else wrote."""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tcm_lab import codec
from tcm_lab.codec import VariantConfig, load_config

Measurable = str | Path | VariantConfig | nn.Module
"""A preset's name, ``compressai/<name>``, a YAML file, a configuration, or a built model."""

_TRANSFORMS = ("g_a", "g_s", "h_a", "h_s")
_SLICE_PARTS = {
    "attention": "attention",
    "networks": "slice_heads",
    "context": "slice_heads",
    "lrp": "lrp",
}
_TOP_PARTS = {
    "entropy_bottleneck": "prior",
    "gaussian_conditional": "prior",
    "y_gains": "gain",
    "z_gains": "gain",
}
_PEER_STRIDE = 64


@dataclass(frozen=True)
class Target:
    """A model to be counted.

    Attributes:
        name: what tables call it.
        config: its configuration, where it is one of ours.
        model: somebody else's model, or None.
    """

    name: str
    config: VariantConfig | None
    model: nn.Module | None

    @classmethod
    def of(cls, source: Measurable) -> Target:
        """Return the subject that ``source`` names.

        Raises:
            ConfigError: it names neither a preset, nor a file, nor a model of CompressAI's.
        """
        if isinstance(source, nn.Module):
            config = getattr(source, "config", None)
            if isinstance(config, VariantConfig):
                return cls(config.name, config, None)
            return cls(type(source).__name__, None, source)
        if isinstance(source, str) and source.startswith("compressai/"):
            return cls(source, None, codec.build(source, device="meta"))
        config = load_config(source)
        return cls(config.name, config, None)

    @property
    def fingerprint(self) -> str:
        """A short hash of the configuration, or of somebody else's parameters' shapes."""
        if self.config is not None:
            return self.config.fingerprint
        shapes = {name: list(p.shape) for name, p in self._reference_model().named_parameters()}
        return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()[:12]

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) that the networks see of an image of ``size``."""
        if self.config is not None:
            return codec.padded_size(self.config, size)
        stride = int(getattr(self.model, "downsampling_factor", _PEER_STRIDE))
        return -(-size[0] // stride) * stride, -(-size[1] // stride) * stride

    def part_of(self, name: str) -> str:
        """Return the part that the module or parameter called ``name`` belongs to."""
        path = name.split(".")
        if self.config is not None:
            if path[0] == "slices":
                return _SLICE_PARTS.get(path[2], path[2]) if len(path) > 2 else "slice_heads"
            return _TOP_PARTS.get(path[0], path[0])
        # CompressAI's newer models keep h_a and h_s inside nested latent codecs.
        transform = next((step for step in path if step in _TRANSFORMS), path[0])
        return _TOP_PARTS.get(transform, transform)

    @cached_property
    def on_meta(self) -> nn.Module:
        """The model without weights: parameters and buffers have shapes and no data."""
        if self.config is None:
            return _without_data(self._reference_model())
        model: nn.Module = codec.build(self.config, device="meta")
        if self.config.rate_levels:
            model.forward = partial(model.forward, rate=0.0)
        return model

    def _reference_model(self) -> nn.Module:
        assert self.model is not None, "a subject has a configuration or a model"
        return self.model


@lru_cache(maxsize=8)
def versions(*packages: str) -> dict[str, str]:
    """Return the installed version of each package."""
    return {name: importlib.metadata.version(name) for name in ("tcm-lab", "torch", *packages)}


def _without_data(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` on the meta device; no data is copied."""
    memo: dict[int, Any] = {
        id(tensor): nn.Parameter(torch.empty_like(tensor, device="meta"), tensor.requires_grad)
        if isinstance(tensor, nn.Parameter)
        else torch.empty_like(tensor, device="meta")
        for tensor in [*model.parameters(), *model.buffers()]
    }
    return copy.deepcopy(model, memo)

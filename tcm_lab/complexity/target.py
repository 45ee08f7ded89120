"""The target of a measurement: our configuration, or any codec with CompressAI's interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor, nn

from tcm_lab import codec
from tcm_lab.codec import VariantConfig, load_config
from tcm_lab.codec.adapter import CodecAdapter, copied, unwrapped
from tcm_lab.complexity.directions import Directions, directions_of
from tcm_lab.complexity.record import ABSENT, Scope

Measurable: TypeAlias = str | Path | VariantConfig | nn.Module
"""A preset's name, ``compressai/<name>``, a codec of your own (``my_codec.py:factory``), a YAML
file, a configuration, or a built codec."""

OTHER = "other"
"""The part of everything that belongs to no other part."""


@dataclass(frozen=True)
class Target:
    """A codec to be counted.

    Attributes:
        name: name in tables.
        config: its configuration, or None for a foreign codec.
        module: a foreign codec, or None.
        group_of: maps a module's dotted name to the part to count it under; None: the codec's own
            parts.
        with_data: whether it is run on tensors with values.
    """

    name: str
    config: VariantConfig | None
    module: nn.Module | None = None
    group_of: Callable[[str], str] | None = None
    with_data: bool = False

    @classmethod
    def of(cls, source: Measurable) -> Target:
        """Return the target that ``source`` names.

        Raises:
            ConfigError: it names neither a preset, nor a file, nor a model of CompressAI.
            LabError: it is a codec of this package that was altered after it was built.
        """
        if isinstance(source, nn.Module):
            adapter = CodecAdapter(unwrapped(source))
            if isinstance(adapter.module, codec.Codec):
                codec.refuse_altered(adapter.module)
            return cls(adapter.name, adapter.config, None if adapter.config else adapter.module)
        if isinstance(source, str) and codec.is_own(source):
            return cls.of(codec.build(source))  # with data, since it may have to code an image
        if isinstance(source, str) and codec.is_foreign(source):
            return cls(source, None, codec.build(source, device="meta"))
        config = load_config(source)
        return cls(config.name, config)

    @property
    def fingerprint(self) -> str:
        """A short hash of the configuration, or of a foreign codec's parameter shapes."""
        return (self.config or self._foreign).fingerprint

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) that the networks see for an image of ``size``."""
        if self.config is None:
            return self._foreign.padded_size(size)
        return codec.padded_size(self.config, size)

    @cached_property
    def runnable(self) -> RunnableCodec:
        """A copy of the codec; without data, parameters and buffers have shapes and no values."""
        if self.config is None:
            _ = self.directions  # may code an image, which is impossible during a count
            foreign = self._foreign.module
            return RunnableCodec(copied(foreign, bare=not self.with_data))
        return RunnableCodec(codec.build(self.config, device="cpu" if self.with_data else "meta"))

    @property
    def has_own_layers(self) -> bool:
        """Whether the codec or a layer in it is a user's code, which may need values."""
        whole, *parts = (
            type(module).__module__.partition(".")[0] for module in self.runnable.codec.modules()
        )
        ours = {"tcm_lab", "compressai"}
        return whole not in ours or not {*parts} <= {"torch", *ours}

    def part_of(self, name: str) -> str:
        """Return the part that the module or parameter of `runnable` called ``name`` belongs to."""
        _, _, inner = name.partition(".")
        if not inner:
            return OTHER
        return (self.group_of or self.directions.part_of)(inner)

    @cached_property
    def directions(self) -> Directions:
        """Its parts, and which of them encoding and decoding run."""
        if self.config is None:
            return directions_of(self._foreign)
        return directions_of(CodecAdapter(self.runnable.codec))

    @property
    def absent(self) -> Mapping[Scope, frozenset[str]]:
        """The parts that each scope does not run."""
        return ABSENT if self.config is not None else self.directions.absent

    @property
    def _foreign(self) -> CodecAdapter:
        assert self.module is not None, "a target has a configuration or a module"
        return CodecAdapter(self.module)


class RunnableCodec(nn.Module):
    """A codec that is called with an image alone, whatever else its forward takes."""

    def __init__(self, codec: nn.Module) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, x: Tensor) -> Any:
        """Run the codec's forward pass; with rate levels, at the lowest rate."""
        return CodecAdapter(self.codec).forward(x)

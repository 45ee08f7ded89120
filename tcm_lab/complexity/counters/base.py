"""What every counter takes and returns, and how it books what it finds on a codec's parts."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from tcm_lab.blocks.cost import Cost, Kind
from tcm_lab.complexity.target import OTHER, Target

_NORMS = (nn.LayerNorm, nn.GroupNorm, _BatchNorm, nn.InstanceNorm2d)


@dataclass(frozen=True)
class Count:
    """What a counter found.

    Attributes:
        parts: cost of each part: MACs as the counter counts them, parameters, and activations
            where the counter counts them.
        unknown_operators: operators that the counter met and counted as nothing for want of a
            formula.
    """

    parts: dict[str, Cost]
    unknown_operators: tuple[str, ...] = ()


Counter = Callable[[Target, tuple[int, int]], Count]
"""Counts one forward pass of a target on one image of a padded (height, width).

It raises NoFormula if it cannot count the target at all.
"""


def module_kind(module: nn.Module) -> Kind | None:
    """Return the kind that a whole module stands for, or None if its operators decide."""
    if isinstance(module, nn.Linear):
        return Kind.LINEAR
    if isinstance(module, _ConvNd):
        return Kind.CONVOLUTION
    if isinstance(module, _NORMS):
        return Kind.NORMALISATION
    # By name, so that neither CompressAI's nor a user's own class need be imported here.
    names = {cls.__name__ for cls in type(module).__mro__}
    if "EntropyBottleneck" in names:
        return Kind.PRIOR
    return Kind.GDN if "GDN" in names else None


class ModuleStack:
    """Follows a forward pass through a model's modules.

    Args:
        model: the model; every submodule must be entered by calling it to be noticed.
        part_of: maps a module's dotted name to the part it belongs to.
    """

    def __init__(self, model: nn.Module, part_of: Callable[[str], str]) -> None:
        self._model = model
        self._part_of = part_of
        self._entered: list[tuple[str, Kind | None]] = [(OTHER, None)]

    @property
    def part(self) -> str:
        """Part of the innermost running module."""
        return self._entered[-1][0]

    @property
    def kind(self) -> Kind | None:
        """Kind of the outermost running module that stands for one."""
        return self._entered[-1][1]

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow the passes that are run inside the ``with`` block."""
        handles = []
        for name, module in self._model.named_modules():
            if not name:
                continue
            place = self._part_of(name), module_kind(module)
            handles.append(module.register_forward_pre_hook(self._enter(*place)))
            handles.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, part: str, kind: Kind | None) -> Callable[..., None]:
        def enter(*_: object) -> None:
            self._entered.append((part, self.kind or kind))

        return enter

    def _leave(self, *_: object) -> None:
        self._entered.pop()


class Tally:
    """Adds up what a counter finds; the target's parameters are in it from the start.

    Attributes:
        macs: multiply-accumulates by part, then by kind.
        activations: output elements by part.
    """

    def __init__(self, target: Target) -> None:
        self.macs: dict[str, collections.Counter[Kind]] = {}
        self.activations: collections.Counter[str] = collections.Counter()
        self._parameters = _parameters(target)

    def add(self, part: str, kind: Kind, macs: int) -> None:
        """Book ``macs`` on a part's kind."""
        self.macs.setdefault(part, collections.Counter())[kind] += macs

    def count(self, unknown_operators: tuple[str, ...] = ()) -> Count:
        """Return what was added up."""
        parts = {
            part: Cost(
                self.macs.get(part, {}),
                self._parameters.get(part, {}),
                self.activations[part],
            )
            for part in dict.fromkeys([*self._parameters, *self.macs])
        }
        return Count(parts, unknown_operators)


def _parameters(target: Target) -> dict[str, dict[Kind, int]]:
    """Count learnable scalars by part, then by kind; a shared one counts once."""
    kinds: dict[str, Kind | None] = {"": None}
    for name, module in target.on_meta.named_modules():
        outer = kinds.get(name.rpartition(".")[0]) if name else None
        kinds[name] = outer or module_kind(module)
    table: dict[str, dict[Kind, int]] = {}
    for name, parameter in target.on_meta.named_parameters():
        owner, _, own_name = name.rpartition(".")
        kind = kinds[owner] or _loose_kind(own_name)
        by_kind = table.setdefault(target.part_of(name), {})
        by_kind[kind] = by_kind.get(kind, 0) + parameter.numel()
    return table


def _loose_kind(name: str) -> Kind:
    """Return the kind of a parameter that belongs to no layer of a kind, by its own name."""
    if "position" in name:
        return Kind.POSITION
    return Kind.GAIN if name in ("log_gain", "log_inverse") else Kind.OTHER

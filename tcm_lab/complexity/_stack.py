"""Which module is running: its part of the model and the kind of operator it stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from tcm_lab.blocks.cost import Kind
from tcm_lab.complexity._meta import is_bottleneck

OTHER = "other"
_NORMS = (nn.LayerNorm, nn.GroupNorm, _BatchNorm, nn.InstanceNorm2d)

PartOf = Callable[[str], str]


def module_kind(module: nn.Module) -> Kind | None:
    """Return the kind that a whole module stands for, or None if its operators decide."""
    if isinstance(module, nn.Linear):
        return Kind.LINEAR
    if isinstance(module, _ConvNd):
        return Kind.CONVOLUTION
    if isinstance(module, _NORMS):
        return Kind.NORMALISATION
    if is_bottleneck(module):
        return Kind.PRIOR
    # By name, so that neither CompressAI's nor a user's own GDN need be imported here.
    if any(cls.__name__ == "GDN" for cls in type(module).__mro__):
        return Kind.GDN
    return None


class ModuleStack:
    """Follows a forward pass through a model's modules.

    Args:
        model: the model; every submodule must be entered by calling it to be noticed.
        part_of: maps a module's dotted name to the part it belongs to.
    """

    def __init__(self, model: nn.Module, part_of: PartOf) -> None:
        self._model = model
        self._part_of = part_of
        self._entered: list[tuple[str, Kind | None]] = [(OTHER, None)]

    @property
    def part(self) -> str:
        """Part of the module that is running."""
        return self._entered[-1][0]

    @property
    def kind(self) -> Kind | None:
        """Kind of the innermost running module that stands for one."""
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


def _loose_kind(name: str) -> str:
    """Return the kind of a parameter that belongs to no layer of a kind, by its own name."""
    if "position" in name:
        return Kind.POSITION
    return Kind.GAIN if name in ("log_gain", "log_inverse") else OTHER


def parameters_by_kind(model: nn.Module, part_of: PartOf) -> dict[str, dict[str, int]]:
    """Count a model's learnable scalars by part, then by kind; a shared one counts once."""
    kinds: dict[str, Kind | None] = {"": None}
    for name, module in model.named_modules():
        outer = kinds.get(name.rpartition(".")[0]) if name else None
        kinds[name] = outer or module_kind(module)
    table: dict[str, dict[str, int]] = {}
    for name, parameter in model.named_parameters():
        owner, _, own_name = name.rpartition(".")
        kind: str = kinds[owner] or _loose_kind(own_name)
        by_kind = table.setdefault(part_of(name), {})
        by_kind[kind] = by_kind.get(kind, 0) + parameter.numel()
    return table

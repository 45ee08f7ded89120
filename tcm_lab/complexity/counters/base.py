"""The result of every counter, and the tally that adds up counts by part and kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from tcm_lab.blocks.cost import Cost, Kind
from tcm_lab.complexity.target import OTHER

NORMALISATIONS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _BatchNorm, _InstanceNorm)


@dataclass(frozen=True)
class Count:
    """The result of a counter.

    Attributes:
        parts: cost of each part: MACs as the counter counts them, parameters, and activations
            if the counter counts them.
        unknown_operators: operators that the counter met and counted as nothing, since it has no
            formula for them.
    """

    parts: dict[str, Cost]
    unknown_operators: tuple[str, ...] = ()


def module_kind(module: nn.Module) -> Kind | None:
    """Return the kind of a whole module, or None if it depends on the module's operators."""
    if isinstance(module, nn.Linear):
        return Kind.LINEAR
    if isinstance(module, _ConvNd):
        return Kind.CONVOLUTION
    if isinstance(module, NORMALISATIONS):
        return Kind.NORMALISATION
    # By name, so that no class of CompressAI or of a user has to be imported here.
    names = {cls.__name__ for cls in type(module).__mro__}
    if names & {"EntropyBottleneck", "GeneralisedGaussianPrior"}:
        return Kind.PRIOR
    return Kind.GDN if "GDN" in names else None


def operator_kind(name: str) -> Kind:
    """Return the kind of one of torch's products, by its name, outside modules with a kind."""
    return _WEIGHT_PRODUCTS.get(name, Kind.ATTENTION)


_WEIGHT_PRODUCTS = {
    "convolution": Kind.CONVOLUTION,
    "_convolution": Kind.CONVOLUTION,
    "mm": Kind.LINEAR,
    "addmm": Kind.LINEAR,
}


class Tally:
    """Adds up counts, and follows a forward pass to assign them to parts and kinds.

    Args:
        model: the model; a submodule is noticed when it is called.
        part_of: maps a module's dotted name to the part it belongs to.

    Attributes:
        macs: multiply-accumulates by part, then by kind.
        activations: output elements by part.
    """

    def __init__(self, model: nn.Module, part_of: Callable[[str], str]) -> None:
        self.macs: dict[str, Counter[Kind]] = defaultdict(Counter)
        self.activations: Counter[str] = Counter()
        self._model = model
        self._part_of = part_of
        self._entered: list[tuple[str, Kind | None]] = [(OTHER, None)]

    @property
    def part(self) -> str:
        """Part of the innermost running module."""
        return self._entered[-1][0]

    @property
    def kind(self) -> Kind | None:
        """Kind of the outermost running module that has one."""
        return self._entered[-1][1]

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow the passes that are run inside the ``with`` block.

        Of several names of a module, the one inside the running module counts.
        """
        names: dict[nn.Module, list[str]] = defaultdict(list)
        for name, module in self._model.named_modules(remove_duplicate=False):
            names[module].append(name)
        running: list[str] = []

        def enter(own: Sequence[str], kind: Kind | None, *_: object) -> None:
            within = (
                name for outer in reversed(running) for name in own if name.startswith(f"{outer}.")
            )
            running.append(next(within, own[0]))
            self._entered.append((self._part_of(running[-1]), self.kind or kind))

        def leave(*_: object) -> None:
            running.pop()
            self._entered.pop()

        with ExitStack() as stack:
            for module, own in names.items():
                if module is not self._model:
                    begin = partial(enter, own, module_kind(module))
                    stack.enter_context(module.register_forward_pre_hook(begin))
                    stack.enter_context(module.register_forward_hook(leave, always_call=True))
            yield

    def count(self, unknown_operators: tuple[str, ...] = ()) -> Count:
        """Return the sums, with the model's parameters; a shared parameter counts once."""
        kinds: dict[str, Kind | None] = {}
        for name, module in self._model.named_modules():
            outer = kinds.get(name.rpartition(".")[0])
            kinds[name] = outer or module_kind(module)
        parameters: dict[str, Counter[Kind]] = defaultdict(Counter)
        for name, parameter in self._model.named_parameters():
            owner, _, own_name = name.rpartition(".")
            kind = kinds[owner] or _loose_kind(own_name)
            parameters[self._part_of(name)][kind] += parameter.numel()
        parts = {
            part: Cost(self.macs[part], parameters[part], self.activations[part])
            for part in dict.fromkeys([*parameters, *self.macs])
        }
        return Count(parts, unknown_operators)


def _loose_kind(name: str) -> Kind:
    """Return the kind of a parameter outside layers with a kind, by its own name."""
    if "position" in name:
        return Kind.POSITION
    return Kind.GAIN if name in ("log_gain", "log_inverse") else Kind.OTHER

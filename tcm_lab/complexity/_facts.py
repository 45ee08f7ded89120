"""What a forward pass's layers handle, element by element: the terms in which counters differ.

Read from shapes by hooks of our own, so that no counter is explained by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from tcm_lab.blocks.cost import Kind
from tcm_lab.complexity._meta import bottleneck_products, is_bottleneck
from tcm_lab.complexity._stack import module_kind


@dataclass
class LayerFacts:
    """Tallies of one forward pass.

    Attributes:
        layer_biases: outputs of biased convolutions and linear layers of torch's own classes.
        other_biases: the same for GDN and for subclasses of torch's layers.
        gdn: MACs of the 1x1 products inside GDN.
        subclassed: MACs of subclasses of torch's convolutions and linear layers, by class.
        normalised: elements that pass a normalisation, by class and whether it has gain and offset.
        activated: elements that pass a layer without parameters, by class.
        prior: MACs of the factorised prior's densities.
    """

    layer_biases: int = 0
    other_biases: int = 0
    gdn: int = 0
    subclassed: Counter[str] = field(default_factory=Counter)
    normalised: Counter[tuple[str, bool]] = field(default_factory=Counter)
    activated: Counter[str] = field(default_factory=Counter)
    prior: int = 0

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Tally the passes through ``model`` that are run inside the ``with`` block."""
        handles = [
            module.register_forward_hook(self._see)
            for module in model.modules()
            if module_kind(module) is not None or not any(module.children())
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _see(self, module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        kind = module_kind(module)
        if is_bottleneck(module):
            self.prior += bottleneck_products(module, inputs[0])
        elif kind is Kind.GDN:
            self.gdn += inputs[0].shape[1] * output.numel()
            self.other_biases += output.numel()
        elif isinstance(module, (_ConvNd, nn.Linear)):
            self._see_product(module, inputs[0], output)
        elif kind is Kind.NORMALISATION:
            self.normalised[type(module).__name__, module.weight is not None] += inputs[0].numel()
        elif isinstance(output, Tensor) and inputs and isinstance(inputs[0], Tensor):
            self.activated[type(module).__name__] += inputs[0].numel()

    def _see_product(self, module: Any, x: Tensor, output: Tensor) -> None:
        own = type(module).__module__.startswith("torch.nn.")
        if module.bias is not None and own:
            self.layer_biases += output.numel()
        elif module.bias is not None:
            self.other_biases += output.numel()
        if not own:
            places = x if isinstance(module, _ConvTransposeNd) else output
            axes = module.weight.dim() - 2
            positions = x.shape[0] * prod(places.shape[-axes:]) if axes else prod(x.shape[:-1])
            self.subclassed[type(module).__name__] += positions * module.weight.numel()

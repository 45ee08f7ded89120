"""Which part of a model is running."""

from __future__ import annotations

from torch import Tensor, nn, zeros

from tcm_lab.blocks.cost import Kind
from tcm_lab.complexity.counters.base import Tally
from tcm_lab.complexity.target import OTHER


def test_what_runs_belongs_to_the_innermost_module_and_to_its_outermost_kind() -> None:
    seen: list[tuple[str, Kind | None]] = []

    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((tally.part, tally.kind))
            return x

    class Linear(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.inner = Inner()

        def forward(self, x: Tensor) -> Tensor:
            seen.append((tally.part, tally.kind))
            return self.inner(super().forward(x))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Linear()

        def forward(self, x: Tensor) -> Tensor:
            seen.append((tally.part, tally.kind))
            x = self.layer(x)
            seen.append((tally.part, tally.kind))
            return x

    model = Model()
    tally = Tally(model, lambda name: f"part of {name}")
    with tally.following():
        model(zeros(1, 2))
    assert seen == [
        (OTHER, None),
        ("part of layer", Kind.LINEAR),
        ("part of layer.inner", Kind.LINEAR),
        (OTHER, None),
    ]

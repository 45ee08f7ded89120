"""What a training measures of itself: means since the last report, and over its last steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tcm_lab.training.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Meter:
    """Sums of metrics, which stay on the device until they are asked for.

    Args:
        recipe: says which metrics there are.
        fabric: whose processes share the means.
    """

    def __init__(self, recipe: Recipe, fabric: Fabric) -> None:
        always = ("loss", "bpp", "mse", "aux", "gradient_norm", "log_loss")
        self._names = (*always, "cca") if recipe.cca else always
        self._fabric = fabric
        self._window = torch.zeros(len(self._names) + 1, device=fabric.device)
        self._tail = [0.0] * (len(self._names) + 1)

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add a step's metrics."""
        row = [values[name] for name in self._names]
        self._window += torch.stack([*row, torch.ones_like(row[0])])

    def is_finite(self) -> bool:
        """Return whether every metric since the last report is a number."""
        return bool(self._window.isfinite().all())

    def report(self, *, counts: bool) -> dict[str, float]:
        """Return the means since the last report, over all processes, and begin anew.

        Args:
            counts: whether these steps are among the last ones.
        """
        reduced = self._fabric.all_reduce(self._window, reduce_op="mean")
        assert isinstance(reduced, Tensor)
        sums: list[float] = reduced.tolist()
        self._window.zero_()
        if counts:
            self._tail = [old + new for old, new in zip(self._tail, sums, strict=True)]
        return self._means(sums)

    def tail(self) -> dict[str, float]:
        """Return the means over the last steps."""
        return self._means(self._tail)

    def _means(self, sums: Sequence[float]) -> dict[str, float]:
        return {name: total / sums[-1] for name, total in zip(self._names, sums, strict=False)}

    def facts(self) -> dict[str, Any]:
        """Return the state."""
        return {"tail": self._tail, "window": self._window.tolist()}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._tail = self._complete(facts["tail"])
        self._window.copy_(torch.tensor(self._complete(facts["window"])))

    def _complete(self, sums: Sequence[float]) -> list[float]:
        """Return sums with that of the log losses, which states of earlier versions lack."""
        place = self._names.index("log_loss")
        missing = len(sums) == len(self._names)
        return [*sums[:place], 0.0, *sums[place:]] if missing else [*sums]

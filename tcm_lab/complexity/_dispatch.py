"""Torch's operator mode, with the annotations that torch leaves out."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class OperatorMode(TorchDispatchMode):
    """Sees every operator that runs inside its ``with`` block; subclasses answer in ``operate``."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it

    @classmethod
    def __init_subclass__(cls) -> None:
        super().__init_subclass__()  # type: ignore[no-untyped-call]  # torch does not annotate it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        return self.operate(func, args, kwargs or {})

    def operate(self, operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Return the result of ``operator``, an ``OpOverload``."""
        return operator(*args, **kwargs)

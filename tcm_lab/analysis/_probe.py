"""Looking into a model while it runs: which module gave what, and which layers attended where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from tcm_lab.blocks import WindowAttention
from tcm_lab.blocks.swin import SwinLayer
from tcm_lab.errors import LabError, near


class Seen(Exception):
    """Ends a forward pass once what was looked for is there.

    Args:
        value: what was looked for.
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


@contextmanager
def hooked(handles: list[Any]) -> Iterator[None]:
    """Remove the hooks behind ``handles`` when the ``with`` block is left."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold ``model`` in evaluation mode, and leave it as it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def forward(codec: nn.Module, x: Tensor, rate: float | None) -> Any:
    """Run ``codec`` on images, at a rate where it is conditioned on one."""
    return codec(x) if rate is None else codec(x, rate=rate)


def model_name(model: nn.Module) -> str:
    """Return what tables call ``model``."""
    config: Any = getattr(model, "config", None)
    return str(getattr(config, "name", type(model).__name__))


def module_named(model: nn.Module, name: str) -> nn.Module:
    """Return the submodule that ``name`` leads to.

    Raises:
        LabError: there is none; the message names the nearest.
    """
    modules = dict(model.named_modules())
    if name not in modules:
        raise LabError(
            f"layer '{name}': the model has no such module.{near(name, modules)} "
            "model.named_modules() lists them."
        )
    found: nn.Module = modules[name]
    return found


def as_map(module: nn.Module, output: Any, name: str) -> Tensor:
    """Return a module's output as a feature map (B, C, H, W).

    Layers of tokens keep their channels last: they are known by their type.

    Raises:
        LabError: the output is no feature map.
    """
    if not isinstance(output, Tensor) or output.ndim != 4:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise LabError(f"layer '{name}': gives {shape}, which is no feature map (B, C, H, W)")
    last = [module] if not isinstance(module, nn.Sequential) else list(module)[-1:]
    tokens = any(
        isinstance(m, nn.LayerNorm | nn.Linear | WindowAttention) or type(m) is SwinLayer
        for m in last
    )
    return output.permute(0, 3, 1, 2) if tokens else output


def attention_modules(model: nn.Module) -> dict[str, WindowAttention]:
    """Return the window attentions of ``model`` by name, in the order of its modules."""
    return {n: m for n, m in model.named_modules() if isinstance(m, WindowAttention)}


@contextmanager
def attention_inputs(
    model: nn.Module, on_input: Callable[[str, WindowAttention, Tensor], None]
) -> Iterator[None]:
    """Call ``on_input(name, module, x)`` for each window attention that runs in the block."""

    def hook(name: str) -> Callable[[nn.Module, Any], None]:
        def call(module: nn.Module, args: Any) -> None:
            assert isinstance(module, WindowAttention)
            on_input(name, module, args[0])

        return call

    named = attention_modules(model).items()
    with hooked([module.register_forward_pre_hook(hook(name)) for name, module in named]):
        yield

"""What a training needs of the process around it, and leaves as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from tcm_lab._compat.malloc import keep_freed_memory
from tcm_lab._compat.onednn import safe_strided_convolutions
from tcm_lab.training.linear_start import frozen
from tcm_lab.training.objective import entropy_models_in_float32
from tcm_lab.training.optimizers import is_shortcut
from tcm_lab.training.recipe import Recipe


@contextmanager
def conditions(codec: nn.Module, recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Keep the caller's random state, and what device and recipe ask for, while the block runs."""
    keep_freed_memory()
    with ExitStack() as stack:
        cuda = [device] if device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        if device.type == "cpu":
            stack.enter_context(safe_strided_convolutions(codec))
        if recipe.precision != "32-true":
            stack.enter_context(entropy_models_in_float32(codec))
        if not recipe.shortcut_lr:
            shortcuts = (p for name, p in codec.named_parameters() if is_shortcut(name))
            stack.enter_context(frozen(shortcuts))
        yield

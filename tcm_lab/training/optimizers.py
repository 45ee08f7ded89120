"""Optimisers of a codec: Muon for the matrices of its transforms, Adam for everything else."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.optimizer import ParamsT

from tcm_lab.codec import CodecAdapter
from tcm_lab.training.linear_stages import carries_linear_map
from tcm_lab.training.recipe import Recipe

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MIN_SIDE = 8
_ENTROPY_SIDE = ("h_a.", "h_s.", "slices.", "context_model.")
_RESAMPLER = re.compile(r"g_[as]\.stages\.\d+\.resample\.")
_CAREFUL = 0.1  # of the learning rate, up to 64 latent channels: a linear map's weights are precise
_SHORTCUT = re.compile(r"g_[as]\.(stages\.\d+\.)?shortcut\.")


class Muon(Optimizer):
    """Momentum, orthogonalised matrix by matrix (Jordan et al. 2024, "Muon").

    An update has singular values near 1, times 0.2 √(larger side), so that its entries are about as
    large as Adam's (Liu et al. 2025, "Muon is scalable for LLM training"). A convolution's weight
    is a matrix of output channels by all other dimensions. torch has had a Muon for matrices since
    2.9; this one also accepts convolutions, and updates all matrices of one shape at once, which
    makes it cheap on a CPU.

    Args:
        parameters: weights of two dimensions or more.
        lr: learning rate.
        momentum: decay of the gradients' average, in Nesterov's form.
    """

    def __init__(self, parameters: ParamsT, lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no loss is reported
        """Update every weight that has a gradient."""
        for group in self.param_groups:
            shapes: defaultdict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                average = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(average, group["momentum"]).flatten(1)
                shapes[update.shape].append((weight, update))
            for shape, members in shapes.items():
                updates = orthogonalised(torch.stack([update for _, update in members]))
                size = group["lr"] * 0.2 * max(shape) ** 0.5
                for (weight, _), update in zip(members, updates, strict=True):
                    weight.add_(update.reshape(weight.shape), alpha=-size)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Move the singular values of matrices (N, A, B) near 1 by five Newton-Schulz steps."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.mT if is_tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_ITERATIONS):
        gram = torch.bmm(x, x.mT)
        quadratic = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, quadratic, x, beta=a)
    return x.mT if is_tall else x


def make_optimizers(
    codec: nn.Module, recipe: Recipe, context: nn.Module | None = None
) -> dict[str, Optimizer]:
    """Assign a codec's parameters to optimisers, each group with its ``base_lr``.

    Parameters named ``…quantiles`` belong to ``aux``; those without a gradient to none. Where the
    main path has become a linear transform, its resamplers learn at a tenth of the rate, by Adam;
    above 64 latent channels M at 64 / M of that, since an update of Adam changes what a layer
    computes the more, the more channels it adds up.

    Args:
        codec: the codec to train.
        recipe: recipe of the training.
        context: an auxiliary entropy model to train with it.

    Returns:
        Optimisers by name: ``adam``, ``muon``, ``aux`` and ``context``, without those that have no
        parameters.
    """
    groups: defaultdict[tuple[str, float], list[nn.Parameter]] = defaultdict(list)
    paths = {id(parameter) for parameter in shortcuts(codec)}
    careful = _careful_lr(codec, recipe)
    for name, parameter in codec.named_parameters():
        if parameter.requires_grad:
            key = _optimizer_of(name, parameter, recipe)
            if id(parameter) in paths:
                key = ("adam", recipe.lr if recipe.shortcut_lr is None else recipe.shortcut_lr)
            elif careful is not None and _RESAMPLER.match(name):
                key = ("adam", careful)
            groups[key].append(parameter)
    optimizers: dict[str, Optimizer] = {}
    for kind in ("adam", "muon", "aux"):
        members: list[dict[str, Any]] = [
            {"params": parameters, "lr": lr, "base_lr": lr}
            for (optimizer, lr), parameters in groups.items()
            if optimizer == kind
        ]
        if not members:
            continue
        if kind == "muon":
            optimizers[kind] = Muon(members, lr=recipe.matrix_lr)
        else:
            floats = all(p.is_floating_point() for group in members for p in group["params"])
            optimizers[kind] = Adam(members, lr=recipe.lr, fused=floats)
    if context is not None:
        lr = _entropy_lr(recipe)
        group = {"params": list(context.parameters()), "lr": lr, "base_lr": lr}
        optimizers["context"] = Adam([group], lr=lr, fused=True)
    return optimizers


def _careful_lr(codec: nn.Module, recipe: Recipe) -> float | None:
    """Return the rate of resamplers that became a linear map; None if they did not."""
    if recipe.start != "linear" or not carries_linear_map(codec):
        return None
    return _CAREFUL * min(1.0, 64 / codec.config.latent_channels) * recipe.lr


def _entropy_lr(recipe: Recipe) -> float:
    return recipe.lr if recipe.entropy_lr is None else recipe.entropy_lr


def _optimizer_of(name: str, parameter: nn.Parameter, recipe: Recipe) -> tuple[str, float]:
    """Return the optimiser and the learning rate of a parameter outside the linear paths."""
    if name.endswith("quantiles"):
        return "aux", recipe.aux_lr
    if name.startswith(_ENTROPY_SIDE):
        return "adam", _entropy_lr(recipe)
    is_matrix = name.startswith(("g_a.", "g_s.")) and name.endswith("weight")
    if recipe.optimizer == "muon" and is_matrix and _is_wide(parameter):
        return "muon", recipe.matrix_lr
    return "adam", recipe.lr


def is_shortcut(name: str) -> bool:
    """Return whether a parameter's name, in a codec assembled here, is that of a linear path."""
    return _SHORTCUT.match(name) is not None


def shortcuts(codec: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a codec's linear paths; none of one not assembled here."""
    if CodecAdapter(codec).config is None:  # its layers may have such names, too
        return []
    return [parameter for name, parameter in codec.named_parameters() if is_shortcut(name)]


def _is_wide(parameter: Tensor) -> bool:
    return parameter.ndim > 1 and min(parameter.flatten(1).shape) >= _MIN_SIDE

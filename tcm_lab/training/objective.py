"""The loss of one batch, and its random choices: the rate levels and noise of each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tcm_lab.blocks.wavelet import HaarLinear
from tcm_lab.codec import Latent, bits
from tcm_lab.codec.seeds import begin_anew
from tcm_lab.training.causal_context import CausalContext
from tcm_lab.training.recipe import Recipe

# One codec at many rates: without weights the loss of the highest lambda, several times the others,
# would dominate the gradient. Optimal losses grow roughly as lambda^0.5 over the usual range.
_LEVEL_EXPONENT = -0.5
_CPU = torch.device("cpu")


def level_weights(lambdas: tuple[float, ...]) -> list[float]:
    """Return weights of the levels so that none dominates the gradient: lambda^-0.5, mean 1."""
    raw = [value**_LEVEL_EXPONENT for value in lambdas]
    return [value * len(raw) / sum(raw) for value in raw]


def draw_levels(levels: int, batch: int, seed: int, step: int) -> Tensor:
    """Draw a rate level for every sample of the global batch of ``step``, in balance.

    Every level occurs once in each run of ``levels`` samples, which may cross steps.

    Returns:
        int64 (batch,), a pure function of the arguments.
    """
    first, place = divmod(step * batch, levels)
    rounds = range(first, first + -(-(place + batch) // levels))
    orders = [np.random.default_rng((seed, 2, number)).permutation(levels) for number in rounds]
    picked = np.concatenate(orders)[place : place + batch]
    return torch.tensor(picked, dtype=torch.int64)


class RateDistortionLoss(nn.Module):
    """Runs a codec on a batch and returns its losses; one module, so that DDP sees all gradients.

    The auxiliary loss depends only on the quantiles and the rate-distortion loss on everything
    else, so one backward pass through their sum gives both optimisers their gradients.

    Args:
        codec: called as ``codec(x)``, or ``codec(x, rate=level)`` if it is rate-conditioned.
        lambdas: one weight per rate level.
        metric: ``mse`` or ``ms-ssim``.
        orthogonality: weight of the wavelet paths' distance from orthogonal projections.
        context: the auxiliary entropy model of CCA's loss; ``None`` without it.
    """

    def __init__(
        self,
        codec: nn.Module,
        lambdas: tuple[float, ...],
        metric: Literal["mse", "ms-ssim"],
        orthogonality: float = 0.1,
        context: CausalContext | None = None,
    ) -> None:
        super().__init__()
        self._lambdas: Tensor
        self._weights: Tensor
        self.codec = codec
        self.metric = metric
        self.orthogonality = orthogonality
        self.context = context
        self.register_buffer("_lambdas", torch.tensor(lambdas), persistent=False)
        self.register_buffer("_weights", torch.tensor(level_weights(lambdas)), persistent=False)

    def forward(self, x: Tensor, levels: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the losses of one batch.

        Args:
            x: (B, 3, H, W) in [0, 1].
            levels: (B,) rate level of each sample; ``None`` without rate conditioning.

        Returns:
            scalars ``total`` (to differentiate: the loss with all additional terms), ``loss``
            (lambda D + bpp, the mean over the batch), ``bpp``, ``mse`` (images in [0, 1]), ``aux``
            and ``log_loss`` (the mean of the logarithms); with CCA's loss also ``cca``, the bpp of
            y minus that of the auxiliary model (mostly below 0).
        """
        out, latent = self._run(x, levels)  # refuses anything but a batch of images
        pixels = x.shape[2] * x.shape[3]
        bpp = bits(out["likelihoods"]) / pixels
        x_hat = out["x_hat"].float()
        mse = (x_hat - x).square().flatten(1).mean(1)
        index = x.new_zeros(len(x), dtype=torch.int64) if levels is None else levels
        loss = self._lambdas[index] * self._distortion(x_hat, x, mse) + bpp
        goal = loss
        measured: dict[str, Tensor] = {}
        if self.context is not None:
            y_bpp = bits({"y": out["likelihoods"]["y"]}) / pixels
            lagged_bpp = self.context(self.codec, latent) / pixels
            goal = loss + self.context.weight * y_bpp + lagged_bpp
            measured["cca"] = (y_bpp - lagged_bpp).mean()
        total = (goal * self._weights[index]).mean()
        has_aux = hasattr(self.codec, "aux_loss")  # CompressAI's models, which fit quantiles
        aux_loss: Any = self.codec.aux_loss() if has_aux else 0  # type: ignore[operator]  # a method
        aux = torch.as_tensor(aux_loss, dtype=loss.dtype, device=loss.device)  # may be an int
        measured |= {"loss": loss.mean(), "bpp": bpp.mean(), "mse": mse.mean(), "aux": aux}
        measured["log_loss"] = loss.log().mean()
        detached = {name: value.detach() for name, value in measured.items()}
        with torch.autocast(x.device.type, enabled=False):  # small differences need float32
            for module in self.codec.modules():
                if isinstance(module, HaarLinear):
                    total = total + self.orthogonality * module.orthogonality()
        return {"total": total + aux, **detached}

    def _run(self, x: Tensor, levels: Tensor | None) -> tuple[Any, Latent | None]:
        """Return the codec's output, and its latent for CCA's loss."""
        rate = {} if levels is None else {"rate": levels.to(x.dtype)}
        if self.context is None:
            return self.codec(x, **rate), None
        codec: Any = self.codec
        out, latent = codec.estimate(x, **rate)
        return out, latent

    def _distortion(self, x_hat: Tensor, x: Tensor, mse: Tensor) -> Tensor:
        if self.metric == "mse":
            return 255**2 * mse
        from pytorch_msssim import ms_ssim

        # MS-SSIM's variances are small differences of large sums, which 16 bits lose.
        with torch.autocast(x.device.type, enabled=False):
            similarity: Tensor = ms_ssim(x_hat, x, data_range=1.0, size_average=False)
        return 1 - similarity


#: Makes a module with the signature and the results of `RateDistortionLoss`.
MakeObjective = Callable[[nn.Module, Recipe, CausalContext | None], nn.Module]


def rate_distortion(codec: nn.Module, recipe: Recipe, context: CausalContext | None) -> nn.Module:
    """Return the loss of a recipe, with the auxiliary model of CCA's loss if there is one."""
    return RateDistortionLoss(codec, recipe.lambdas, recipe.metric, recipe.orthogonality, context)


@contextmanager
def entropy_models_in_float32(codec: nn.Module) -> Iterator[None]:
    """Disable autocast in the entropy models: a likelihood in bfloat16 has two digits."""
    from compressai.entropy_models import EntropyModel

    models = [module for module in codec.modules() if isinstance(module, EntropyModel)]
    for model in models:
        model.forward = _in_float32(model.forward)
    try:
        yield
    finally:
        for model in models:
            del model.forward


def _in_float32(forward: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        tensors = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, Tensor)]
        with torch.autocast(tensors[0].device.type, enabled=False):
            return forward(
                *(_float32(arg) for arg in args),
                **{name: _float32(arg) for name, arg in kwargs.items()},
            )

    return run


def _float32(value: Any) -> Any:
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return value.float() if is_float else value


def seed_step(seed: int, step: int, attempt: int, device: torch.device = _CPU) -> None:
    """Seed torch on a device for one step; its noise follows from (seed, step, attempt) alone."""
    state = np.random.SeedSequence((seed, 3, step, attempt)).generate_state(1, np.uint64)
    begin_anew(int(state[0]) >> 1, device)


class SharedNoise(TorchFunctionMode):
    """Draws the noise of the global batch in each process and returns this rank's part.

    The ranks' gradients then average to those of one process on the whole batch, sample for sample.
    It intercepts the functions that quantisation noise calls: ``uniform_`` and ``rand_like``. The
    batch is the first dimension, except in the layout (C, 1, B * ...) of CompressAI's factorised
    prior, where it is the last.
    """

    def __init__(self, rank: int, world: int) -> None:
        super().__init__()
        self._rank = rank
        self._world = world

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.uniform_:
            tensor, *bounds = args
            return tensor.copy_(self._part(tensor, *bounds, **kwargs))
        if func is torch.rand_like:
            return self._part(args[0])
        return func(*args, **kwargs)

    def _part(self, like: Tensor, *bounds: float, **kwargs: Any) -> Tensor:
        dim = 2 if like.ndim == 3 and like.shape[1] == 1 else 0
        with torch._C.DisableTorchFunction():
            # Numbers are drawn in memory order, which is that of the whole batch's layout.
            whole = torch.cat([like.detach()] * self._world, dim).uniform_(*bounds, **kwargs)
            return whole.narrow(dim, self._rank * like.shape[dim], like.shape[dim])

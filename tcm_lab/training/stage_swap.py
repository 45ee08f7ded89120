"""Replace stages of a trained codec by others, which are trained alone to imitate them.

Blockwise distillation (DNA, Li et al. 2020; Moons et al. 2021), for codecs: an option of a stage
learns to reproduce the output of the trained parent's stage on the same input. A few steps of rate
and distortion through the whole codec, the rest of it frozen, follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tcm_lab.codec import Codec, VariantConfig, build
from tcm_lab.codec.transforms import Stage, Transform
from tcm_lab.data import Batches
from tcm_lab.errors import LabError
from tcm_lab.training.linear_start import frozen, start_entropy_model, zero_branch, zero_resampler
from tcm_lab.training.log import OnProgress
from tcm_lab.training.objective import MakeObjective, rate_distortion
from tcm_lab.training.optimizers import is_shortcut
from tcm_lab.training.recipe import Recipe
from tcm_lab.training.start import whole_patches
from tcm_lab.training.swaps import Span, Swap
from tcm_lab.training.trainer import train

_MIN_POWER = 1e-8  # of a target: no division by zero for a constant one


def splice(
    parent: Codec,
    config: VariantConfig,
    parts: Sequence[tuple[Swap, Mapping[str, Tensor]]],
) -> Codec:
    """Return a codec with the weights of swaps at their places and the parent's everywhere else.

    Args:
        parent: the trained codec.
        config: the parent's configuration with all the options.
        parts: the swaps, each with a state dict that holds its trained weights.

    Raises:
        LabError: two swaps train the same weights.
    """
    codec: Codec = build(config)
    tensors = _inherited(parent, codec, ())
    replaced: set[str] = set()
    for swap, state in parts:
        own = {name: value for name, value in state.items() if name.startswith(swap.trained)}
        if replaced & own.keys():
            raise LabError(f"{swap.place}: trains weights that another of the swaps trains too.")
        replaced |= own.keys()
        tensors |= own
    codec.load_state_dict(tensors, strict=False)
    codec.eval()
    return codec


def start_swap(parent: Codec, swap: Swap, crops: Tensor, seed: int = 0) -> Codec:
    """Return the parent with a swap's option at its place, untrained.

    The parent's linear paths around the stages are kept where they fit. Residual branches start at
    zero, as in a linear start, and the entropy model at the latent's means and spreads.

    Args:
        parent: the trained codec.
        swap: the swap.
        crops: (B, 3, H, W) in [0, 1].
        seed: seed of the option's weights.
    """
    codec: Codec = build(swap.config, seed=seed).to(crops.device)
    codec.load_state_dict(_inherited(parent, codec, swap.fresh), strict=False)
    with torch.no_grad():
        for path, module in codec.named_modules():
            if f"{path}.".startswith(swap.fresh):
                zero_branch(module)
                if isinstance(module, Stage) and _has_parallel_path(codec, path):
                    zero_resampler(module.resample)
        if f"{swap.config.entropy_model.module_name}." in swap.fresh:
            start_entropy_model(codec, codec.g_a(whole_patches(crops, codec.config)))
    return codec


def _has_parallel_path(codec: Codec, path: str) -> bool:
    """Return whether a linear path leads around a stage's resampler."""
    transform: Any = codec.get_submodule(path.partition(".stages.")[0])
    stage: Any = codec.get_submodule(path)
    return stage.shortcut is not None or transform.wavelet is not None


def _inherited(parent: Codec, codec: Codec, fresh: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the parent's weights that a codec inherits."""
    own = codec.state_dict()
    return {
        name: value
        for name, value in parent.state_dict().items()
        if name in own
        and own[name].shape == value.shape
        and (not name.startswith(fresh) or is_shortcut(name))
    }


class MatchingLoss(nn.Module):
    """Distance of the outputs of a swap's stages from the parent's, on the parent's inputs.

    It is the mean squared difference divided by the variance of the parent's output: a value of 1
    is no better than predicting its mean.

    Args:
        codec: the codec with the swap.
        parent: the trained codec.
        spans: the stages.
    """

    def __init__(self, codec: Codec, parent: Codec, spans: Sequence[Span]) -> None:
        super().__init__()
        self.codec, self.spans = codec, tuple(spans)
        self._parent = (parent.eval(),)  # not a submodule: it is not trained

    def forward(self, x: Tensor, levels: Tensor | None = None) -> dict[str, Tensor]:
        """Return the distance as ``total``, ``loss`` and ``mse``; there is no rate.

        Args:
            x: (B, 3, H, W) in [0, 1].
            levels: (B,) rate level of each sample; ``None`` without rate conditioning.
        """
        errors = []
        for span, (inputs, target) in self._features(x, levels).items():
            output = _run(self.codec, span, inputs)
            spread = target - target.mean((0, 2, 3), keepdim=True)
            power = spread.square().mean().clamp(min=_MIN_POWER)
            errors.append((output - target).square().mean() / power)
        total = torch.stack(errors).mean()
        error, zero = total.detach(), total.new_zeros(())
        log_error = error.clamp(min=_MIN_POWER).log()
        measured = {"loss": error, "mse": error, "log_loss": log_error, "bpp": zero, "aux": zero}
        return {"total": total, **measured}

    @torch.no_grad()
    def _features(
        self, x: Tensor, levels: Tensor | None
    ) -> dict[Span, tuple[tuple[Tensor, ...], Tensor]]:
        """Run the parent up to the last span; return the inputs and output of each span."""
        parent = self._parent[0].to(x.device)
        inputs: dict[Span, tuple[Tensor, ...]] = {}
        features: dict[Span, tuple[tuple[Tensor, ...], Tensor]] = {}

        def enter(span: Span, _: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs[span] = args

        def leave(span: Span, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            features[span] = inputs[span], output
            if len(features) == len(self.spans):
                raise _AllFoundError

        with ExitStack() as stack:
            for span in self.spans:
                first, last = _ends(parent, span)
                stack.enter_context(first.register_forward_pre_hook(partial(enter, span)))
                stack.enter_context(last.register_forward_hook(partial(leave, span)))
            with suppress(_AllFoundError):
                parent(x) if levels is None else parent(x, rate=levels.to(x.dtype))
        return features


class _AllFoundError(Exception):
    """Ends a forward pass once all features are found."""


def _transform(codec: Codec, span: Span) -> Transform:
    transform = codec.get_submodule(span.transform)
    assert isinstance(transform, Transform)
    return transform


def _ends(codec: Codec, span: Span) -> tuple[nn.Module, nn.Module]:
    """Return the first and the last module of a span."""
    transform = _transform(codec, span)
    if span.last is None:
        return transform, transform
    return transform.stages[span.first], transform.stages[span.last]


def _run(codec: Codec, span: Span, inputs: tuple[Tensor, ...]) -> Tensor:
    transform = _transform(codec, span)
    if span.last is None:
        out: Tensor = transform(*inputs)
        return out
    x = inputs[0]
    for i in span.stages:
        x = transform.stages[i](x, *inputs[1:])
    return x


def train_swap(
    parent: Codec,
    swap: Swap,
    recipe: Recipe,
    crops: Batches,
    *,
    match_steps: int,
    steps: int,
    directory: Path,
    on_progress: OnProgress | None = None,
    accelerator: str = "auto",
) -> Codec:
    """Train a swap's option with everything else frozen; resumable like `train`.

    Args:
        parent: the trained codec.
        swap: the swap.
        recipe: the parent's recipe, for its rates, λ, batch and seed.
        crops: source of the batches.
        match_steps: updates towards the features of the parent's stages; a swap without stages
            spends them on rate and distortion, too.
        steps: updates of rate and distortion through the whole codec.
        directory: folder of the state; a training found there is resumed.
        on_progress: called every few steps.
        accelerator: as in `train`.

    Returns:
        The parent with the trained option, in evaluation mode.

    Raises:
        LabError: as `train`.
        KeyboardInterrupt: Ctrl-C, after the state was saved.
    """
    device = next(parent.parameters()).device
    codec = start_swap(parent, swap, crops.batch(0, recipe.batch).to(device), recipe.seed)
    rest = [p for name, p in codec.named_parameters() if not name.startswith(swap.trained)]
    theirs = {name: value.shape for name, value in parent.named_parameters()}
    has_new_maps = any(
        is_shortcut(name) and theirs.get(name) != value.shape
        for name, value in codec.named_parameters()
    )

    def run(phase: str, count: int, objective: MakeObjective) -> None:
        phase_recipe = recipe.changed(
            steps=count,
            warmup=min(recipe.warmup, count // 10),
            start="none",
            linear_steps=0,
            ema=0.0,
            cca=0.0,
            compile=False,
            shortcut_lr=recipe.shortcut_lr or (recipe.lr if has_new_maps else recipe.shortcut_lr),
        )
        train(
            codec,
            phase_recipe,
            crops,
            directory=directory / phase,
            resume=True,
            on_progress=on_progress,
            accelerator=accelerator,
            objective=objective,
        )

    with frozen(rest):
        if not swap.spans:
            steps += match_steps
        elif match_steps:
            run("match", match_steps, lambda *_: MatchingLoss(codec, parent, swap.spans))
        run("tune", steps, rate_distortion)
    return codec

"""One set of weights for all codecs of a space, trained together; each codec is a slice of it.

Universally slimmable networks (Yu & Huang 2019) and once-for-all networks (Cai et al. 2020), for
codecs: a step trains the largest codec, the smallest and two others (the sandwich rule), and all
but the largest also learn from its images. Options of a layer that are not slices of each other,
such as another block, have weights of their own, which a step trains if it draws them (single-path
one-shot, Guo et al. 2020).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tcm_lab._compat.onednn import safe_strided_convolutions
from tcm_lab.codec import (
    Codec,
    Extents,
    VariantConfig,
    build,
    check_shared,
    extents_of,
    joined_extents,
    load_weights,
    part_of,
    put_part,
    read_extra,
    save_weights,
    shared_names,
)
from tcm_lab.data import Batches
from tcm_lab.errors import LabError
from tcm_lab.training.linear_start import (
    frozen,
    linear_phase,
    linear_view,
    start_entropy_model,
    zero_branches,
)
from tcm_lab.training.log import OnProgress, TrainingRecord
from tcm_lab.training.objective import RateDistortionLoss, entropy_models_in_float32
from tcm_lab.training.recipe import Recipe
from tcm_lab.training.start import whole_patches
from tcm_lab.training.state import FILE_NAME, PHASE
from tcm_lab.training.trainer import begin, train

logger = logging.getLogger(__name__)

_CACHED = 256  # modules kept to be run with parts of the shared weights
_START_CROPS = 8  # crops whose latent starts the entropy models
_DRAWN = 2  # codecs of a step in addition to the largest and the smallest


class SuperNet(nn.Module):
    """Weights that contain those of several codecs, with the tensor names of a codec.

    Args:
        configs: the codecs to train, from the smallest to the largest; no two alike.
        more: further codecs to contain.

    Attributes:
        configs: the codecs to train.
        config: the largest of them, whose tensors keep their names.
        covering: codecs that together need all the weights, the largest first.

    Raises:
        ConfigError: one set of weights cannot serve them all.
    """

    def __init__(
        self, configs: Sequence[VariantConfig], more: Iterable[VariantConfig] = ()
    ) -> None:
        super().__init__()
        distinct = {config.fingerprint: config for config in (*reversed(configs), *more)}
        check_shared(distinct.values())
        self.configs = tuple(configs)
        self.config = self.configs[-1]
        self._places: dict[str, tuple[Mapping[str, str], Extents]] = {}
        self._modules_of: dict[str, Codec] = {}
        self.extents: Extents = {}
        covering = []
        for config in distinct.values():
            codec = build(config, device="meta")
            joined = joined_extents([self.extents, self._own_extents(codec)])
            if joined != self.extents:
                self.extents = joined
                covering.append(config)
        self.covering = tuple(covering)
        for config in self.covering:
            self._add_tensors(build(config, device="meta"))

    def _own_extents(self, codec: Codec) -> Extents:
        """Return the extents of a codec's tensors by their shared names."""
        names, own = shared_names(codec, self.config), extents_of(codec)
        self._places[codec.config.fingerprint] = names, own
        return {names[name]: extents for name, extents in own.items()}

    def _add_tensors(self, codec: Codec) -> None:
        """Add zero tensors that can contain a codec's."""
        names, own = self._places[codec.config.fingerprint]
        learned, state = dict(codec.named_parameters()), codec.state_dict()
        for name in own:
            shape = [extent.size for extent in self.extents[names[name]]]
            zeros = torch.zeros(shape, dtype=state[name].dtype)
            _place(self, names[name], zeros, is_learned=name in learned)

    def _fit(self, codec: Codec) -> None:
        """Map a codec's tensors to the shared ones.

        Raises:
            LabError: the shared weights lack some of them.
        """
        config = codec.config
        if config.fingerprint in self._places:
            return
        check_shared((self.config, config))
        joined = joined_extents((self.extents, self._own_extents(codec)))
        if joined != self.extents:
            del self._places[config.fingerprint]
            new = next((name for name in joined if name not in self.extents), None)
            misfit = f"has layers ({new}) that are not in" if new else "is larger than"
            raise LabError(f"{config.name}: {misfit} the shared weights.")

    def weights(self, config: VariantConfig) -> dict[str, Tensor]:
        """Return a codec's tensors as parts of the shared ones; gradients reach these.

        Raises:
            LabError: the codec does not fit into the shared weights.
        """
        if config.fingerprint not in self._places:
            self._fit(build(config, device="meta"))
        names, extents = self._places[config.fingerprint]
        shared = self.state_dict(keep_vars=True)
        return {
            name: _laid_out(part_of(shared[names[name]], own, self.extents[names[name]]))
            for name, own in extents.items()
        }

    def codec(self, config: VariantConfig) -> Codec:
        """Return a codec with a copy of its part of the weights, ready for evaluation."""
        codec: Codec = build(config)
        self._fit(codec)
        parts = {name: part.detach() for name, part in self.weights(config).items()}
        codec.load_state_dict(parts, strict=False)
        codec.eval()
        return codec

    def take(self, codec: Codec) -> None:
        """Write a codec's weights to their places in the shared ones."""
        self._fit(codec)
        names, extents = self._places[codec.config.fingerprint]
        shared = self.state_dict(keep_vars=True)
        state = codec.state_dict()
        for name, own in extents.items():
            put_part(shared[names[name]], state[name], own, self.extents[names[name]])

    def save(self, path: Path, *, cpu_s: float | None = None) -> None:
        """Write the weights, and the configurations that determine their sizes.

        Args:
            path: the file.
            cpu_s: CPU seconds spent on their training, for ``read_extra`` to return.

        Raises:
            LabError: the file cannot be written.
        """
        sizes = [config.model_dump(mode="json") for config in reversed(self.covering)]
        time = {} if cpu_s is None else {"cpu_s": cpu_s}
        save_weights(self, path, {"configs": sizes, **time})

    @classmethod
    def load(cls, path: Path) -> SuperNet:
        """Read what ``save`` wrote.

        Raises:
            LabError: the file can't be read or holds something else.
        """
        configs = read_extra(path).get("configs")
        if not isinstance(configs, list):
            raise LabError(f"{path}: holds no supernet. Delete it to train it again.")
        supernet = cls([VariantConfig.parse(config) for config in configs])
        load_weights(supernet, path)
        return supernet

    def module(self, config: VariantConfig) -> Codec:
        """Return a codec to be called with parts of the shared weights instead of its own."""
        cache = self._modules_of
        if config.fingerprint not in cache:
            if len(cache) >= _CACHED:
                del cache[next(iter(cache))]
            codec: Codec = build(config).to(next(self.parameters()).device)
            for parameter in codec.parameters():
                parameter.data = parameter.new_empty(0)  # replaced by the shared ones
            cache[config.fingerprint] = codec
        cached = cache[config.fingerprint]
        cached.train()
        return cached


def _place(root: nn.Module, name: str, tensor: Tensor, *, is_learned: bool) -> None:
    """Add a tensor to a module by its dotted name, creating plain modules on the way."""
    *path, leaf = name.split(".")
    for step in path:
        if step not in root._modules:
            root.add_module(step, nn.Module())
        root = root.get_submodule(step)
    if is_learned:
        root.register_parameter(leaf, nn.Parameter(_laid_out(tensor)))
    else:
        root.register_buffer(leaf, tensor)


def _laid_out(tensor: Tensor) -> Tensor:
    """Return weights in the memory layout of a codec's own: channels last."""
    layout = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
    return tensor.contiguous(memory_format=layout)


class _Distilled(RateDistortionLoss):
    """A rate-distortion loss, with a share of the distortion against another codec's images."""

    target: Tensor | None = None
    share = 0.0
    x_hat: Tensor

    def _distortion(self, x_hat: Tensor, x: Tensor, mse: Tensor) -> Tensor:
        own = super()._distortion(x_hat, x, mse)
        self.x_hat = x_hat.detach()
        if self.target is None:
            return own
        target_mse = (x_hat - self.target).square().flatten(1).mean(1)
        return torch.lerp(own, super()._distortion(x_hat, self.target, target_mse), self.share)


class _ViewLoss(nn.Module):
    """The loss of a view of a codec, to be called with the codec's weights by their own names."""

    def __init__(self, codec: Codec, loss: nn.Module) -> None:
        super().__init__()
        self.codec = codec
        self._loss = (loss,)  # not a submodule: its weights are the codec's

    def forward(self, x: Tensor, levels: Tensor | None) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self._loss[0](x, levels)
        return losses


class SandwichLoss(nn.Module):
    """The mean loss of the largest codec, the smallest and two others drawn for each step.

    All see the same noise. The reported metrics are the largest codec's.

    Args:
        supernet: the shared weights.
        recipe: recipe with the λ and the metric.
        distillation: share of the distortion against the largest codec's images.
        view: returns the part of a codec to train; by default all of it.
    """

    def __init__(
        self,
        supernet: SuperNet,
        recipe: Recipe,
        distillation: float,
        view: Callable[[Codec], Codec] | None = None,
    ) -> None:
        super().__init__()
        self.supernet, self.recipe, self.distillation = supernet, recipe, distillation
        self.view = view

    def forward(self, x: Tensor, levels: Tensor | None = None) -> dict[str, Tensor]:
        """Return the losses of `RateDistortionLoss` for the largest codec, but ``total`` for all.

        Args:
            x: (B, 3, H, W) in [0, 1].
            levels: (B,) rate level of each sample; ``None`` without rate conditioning.
        """
        recipe, cuda = self.recipe, [x.device] if x.is_cuda else []
        losses: list[dict[str, Tensor]] = []
        target: Tensor | None = None
        for config in self.drawn():
            codec = self.supernet.module(config)
            view = codec if self.view is None else self.view(codec)
            loss = _Distilled(view, recipe.lambdas, recipe.metric, recipe.orthogonality)
            loss.to(x.device)
            loss.target, loss.share = target, self.distillation
            weights = {f"codec.{n}": part for n, part in self.supernet.weights(config).items()}
            with ExitStack() as stack:
                stack.enter_context(torch.random.fork_rng(devices=cuda))
                if x.device.type == "cpu":
                    stack.enter_context(safe_strided_convolutions(view))
                if recipe.precision != "32-true":
                    stack.enter_context(entropy_models_in_float32(view))
                losses.append(functional_call(_ViewLoss(codec, loss), weights, (x, levels)))
            target = loss.x_hat if target is None else target
        total = torch.stack([each["total"] for each in losses]).mean()
        return {**losses[0], "total": total}

    def drawn(self) -> list[VariantConfig]:
        """Return the codecs of a step, the largest first, drawn by torch's seed of the step."""
        smallest, *between = self.supernet.configs[:-1] or self.supernet.configs
        generator = torch.Generator().manual_seed(torch.initial_seed())  # keeps the noise unchanged
        indices = torch.randint(max(len(between), 1), (_DRAWN,), generator=generator).tolist()
        others = (between[i] for i in indices if between)
        distinct = {c.fingerprint: c for c in (self.supernet.config, smallest, *others)}
        return list(distinct.values())


def train_supernet(
    supernet: SuperNet,
    recipe: Recipe,
    crops: Batches,
    *,
    distillation: float = 0.5,
    directory: Path | None = None,
    on_progress: OnProgress | None = None,
    accelerator: str = "auto",
) -> TrainingRecord:
    """Train the codecs of a supernet together; resumable like `train`.

    The weights start as those of the largest codec with this recipe; weights that it lacks start as
    other codecs'. A linear phase trains the entropy models of all codecs; it needs their shortcuts,
    so it is left out, with a warning, where the largest codec has none.

    Args:
        supernet: changed in place.
        recipe: recipe of the training; a step costs one step of each codec drawn in it.
        crops: source of the batches.
        distillation: share of the distortion against the largest codec's images.
        directory: folder of state, log, record and weights; a training found there is resumed.
        on_progress: called every few steps.
        accelerator: as in `train`.

    Raises:
        LabError: as `train`.
        KeyboardInterrupt: Ctrl-C, after the state was saved.
    """
    recipe = recipe.suited(supernet.config.latent_channels, supernet.config.rate_levels)
    run = partial(train, supernet, crops=crops, resume=True, accelerator=accelerator)
    if directory is None or not (directory / FILE_NAME).exists():
        _begin(supernet, recipe, crops, accelerator)
        has_path = supernet.config.shortcut != "none"
        if recipe.linear_steps and not has_path:
            logger.warning(
                "linear_steps %d: left out, since a supernet with shortcut none has no linear path "
                "to train on. Choose another shortcut, or set linear_steps to 0.",
                recipe.linear_steps,
            )
        if recipe.linear_steps and has_path:
            sides = [p for n, p in supernet.named_parameters() if n.startswith(("g_a.", "g_s."))]
            with frozen(sides):
                run(
                    recipe=linear_phase(recipe, supernet.config.latent_channels),
                    directory=None if directory is None else directory / PHASE,
                    on_progress=_of_phase(on_progress),
                    objective=lambda _, phase, __: SandwichLoss(supernet, phase, 0.0, linear_view),
                )
    return run(
        recipe=recipe.without_start().changed(compile=False, cca=0.0),
        directory=directory,
        on_progress=on_progress,
        objective=lambda _, suited, __: SandwichLoss(supernet, suited, distillation),
    )


@torch.no_grad()
def _begin(supernet: SuperNet, recipe: Recipe, crops: Batches, accelerator: str) -> None:
    """Start the weights as the largest codec's, and weights that it lacks as other codecs'."""
    largest = build(supernet.config, seed=recipe.seed)
    with torch.enable_grad():
        begin(largest, recipe.changed(linear_steps=0), crops, accelerator=accelerator)
    largest.cpu()
    latent = largest.g_a(whole_patches(crops.batch(0, _START_CROPS), largest.config))
    for config in reversed(supernet.covering[1:]):
        codec = build(config, seed=recipe.seed)
        if recipe.start == "linear":
            zero_branches(codec)
            if codec.y_unit is not None and largest.y_unit is not None:
                codec.y_unit.copy_(largest.y_unit)
            start_entropy_model(codec, latent)
        supernet.take(codec)
    supernet.take(largest)


def _of_phase(on_progress: OnProgress | None) -> OnProgress | None:
    """Return a callback that labels progress as the linear phase's."""
    if on_progress is None:
        return None
    return lambda progress: on_progress(replace(progress, phase="linear phase"))

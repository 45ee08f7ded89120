"""One set of weights for all codecs of a space, trained together; each is sliced out of it.

Universally slimmable networks (Yu & Huang 2019) and once-for-all ones (Cai et al. 2020), for
codecs: a step trains the largest codec, the smallest and two others (the sandwich rule), and all
but the largest learn from its images, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tcm_lab.codec import (
    Codec,
    Layout,
    VariantConfig,
    build,
    check_shared,
    joined_layout,
    layout_of,
    load_weights,
    part_of,
    put_part,
    read_extra,
    save_weights,
)
from tcm_lab.data import Batches
from tcm_lab.errors import LabError
from tcm_lab.training.log import OnProgress, TrainingRecord
from tcm_lab.training.objective import RateDistortionLoss, entropy_models_in_float32
from tcm_lab.training.recipe import Recipe
from tcm_lab.training.starting import begin
from tcm_lab.training.state import FILE_NAME
from tcm_lab.training.trainer import train

_KEPT = 32  # codecs that are kept as modules, to be run with parts of the shared weights
_DRAWN = 2  # codecs of a step beside the largest and the smallest


class SuperNet(nn.Module):
    """Weights that hold each of several codecs; its tensors have a codec's names.

    Args:
        configs: the codecs, from the smallest to the largest; no two alike.

    Attributes:
        configs: the codecs.
        config: the largest.

    Raises:
        ConfigError: one set of weights cannot serve them all.
    """

    def __init__(self, configs: Sequence[VariantConfig]) -> None:
        super().__init__()
        check_shared(configs)
        self.configs = tuple(configs)
        self.config = self.configs[-1]
        self._layouts = {c.fingerprint: layout_of(build(c, device="meta")) for c in self.configs}
        self.layout = joined_layout(self._layouts.values())
        self._modules_of: dict[str, Codec] = {}
        self.covering = self._covering()
        for config in self.covering:
            codec = build(config, device="meta")
            learned, state = dict(codec.named_parameters()), codec.state_dict()
            for name in self._layouts[config.fingerprint]:
                shape = [extent.size for extent in self.layout[name]]
                zeros = torch.zeros(shape, dtype=state[name].dtype)
                _place(self, name, zeros, is_learned=name in learned)

    def _covering(self) -> tuple[VariantConfig, ...]:
        """Return the largest codec, and those that reach beyond the ones larger than they."""
        reached: Layout = {}
        found = []
        for config in reversed(self.configs):
            joined = joined_layout([reached, self._layouts[config.fingerprint]])
            if joined != reached:
                reached = joined
                found.append(config)
        return tuple(found)

    def _layout_of(self, config: VariantConfig) -> Layout:
        """Return where a codec's weights lie.

        Raises:
            LabError: it does not fit into the shared ones.
        """
        if config.fingerprint not in self._layouts:
            check_shared((self.config, config))
            own = layout_of(build(config, device="meta"))
            if joined_layout((self.layout, own)) != self.layout:
                raise LabError(
                    f"{config.name}: is larger than what the shared weights were trained for."
                )
            self._layouts[config.fingerprint] = own
        return self._layouts[config.fingerprint]

    def weights(self, config: VariantConfig) -> dict[str, Tensor]:
        """Return a codec's tensors as parts of the shared ones, which gradients reach.

        Raises:
            LabError: the codec does not fit into them.
        """
        layout = self._layout_of(config)
        shared = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        parts = {n: part_of(shared[n], own, self.layout[n]) for n, own in layout.items()}
        return {name: _laid_out(part) for name, part in parts.items()}

    def codec(self, config: VariantConfig) -> Codec:
        """Return a codec with its part of the weights as its own, ready for evaluation."""
        codec: Codec = build(config)
        parts = {name: part.detach() for name, part in self.weights(config).items()}
        codec.load_state_dict(parts, strict=False)
        codec.eval()
        return codec

    def take(self, codec: Codec) -> None:
        """Write a codec's weights to their places."""
        shared = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        state = codec.state_dict()
        for name, own in self._layout_of(codec.config).items():
            put_part(shared[name], state[name], own, self.layout[name])

    def save(self, path: Path) -> None:
        """Write the weights, and the configurations that say how large they are.

        Raises:
            LabError: the file cannot be written.
        """
        sizes = [config.model_dump(mode="json") for config in reversed(self.covering)]
        save_weights(self, path, {"configs": sizes})

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
        kept = self._modules_of
        if config.fingerprint not in kept:
            if len(kept) >= _KEPT:
                del kept[next(iter(kept))]
            kept[config.fingerprint] = build(config).to(next(self.parameters()).device)
        return kept[config.fingerprint].train()


def _place(root: nn.Module, name: str, tensor: Tensor, *, is_learned: bool) -> None:
    """Give a module a tensor by its dotted name, with plain modules on the way."""
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
    last = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
    return tensor.contiguous(memory_format=last)


class _Distilled(RateDistortionLoss):
    """A rate-distortion loss whose distortion is, for a share, that against another's images."""

    target: Tensor | None = None
    share = 0.0
    x_hat: Tensor

    def _distortion(self, x_hat: Tensor, x: Tensor, mse: Tensor) -> Tensor:
        own = super()._distortion(x_hat, x, mse)
        self.x_hat = x_hat.detach()
        if self.target is None:
            return own
        apart = (x_hat - self.target).square().flatten(1).mean(1)
        return torch.lerp(own, super()._distortion(x_hat, self.target, apart), self.share)


class SandwichLoss(nn.Module):
    """The mean loss of the largest codec, the smallest and two others, drawn for each step.

    All see the same noise. What is reported is the largest one's.

    Args:
        supernet: the shared weights.
        recipe: its λ and metric.
        distillation: share of the distortion against the largest codec's images.
    """

    def __init__(self, supernet: SuperNet, recipe: Recipe, distillation: float) -> None:
        super().__init__()
        self.supernet, self.recipe, self.distillation = supernet, recipe, distillation

    def forward(self, x: Tensor, levels: Tensor | None = None) -> dict[str, Tensor]:
        """Compute what `RateDistortionLoss` returns for the largest codec, ``total`` for all.

        Args:
            x: (B, 3, H, W) in [0, 1].
            levels: (B,) rate level of each sample; ``None`` without rate conditioning.
        """
        recipe, cuda = self.recipe, [x.device] if x.is_cuda else []
        found: list[dict[str, Tensor]] = []
        target: Tensor | None = None
        for config in self.drawn():
            codec = self.supernet.module(config)
            loss = _Distilled(codec, recipe.lambdas, recipe.metric, recipe.orthogonality)
            loss.to(x.device)
            loss.target, loss.share = target, self.distillation
            weights = {f"codec.{n}": part for n, part in self.supernet.weights(config).items()}
            with ExitStack() as stack:
                stack.enter_context(torch.random.fork_rng(devices=cuda))
                if recipe.precision != "32-true":
                    stack.enter_context(entropy_models_in_float32(codec))
                found.append(functional_call(loss, weights, (x, levels)))
            target = loss.x_hat if target is None else target
        total = torch.stack([losses["total"] for losses in found]).mean()
        return {**found[0], "total": total}

    def drawn(self) -> list[VariantConfig]:
        """Return the codecs of a step, the largest first, by torch's seed, which is the step's."""
        smallest, *between = self.supernet.configs[:-1] or self.supernet.configs
        draws = torch.Generator().manual_seed(torch.initial_seed())  # leaves the noise as it is
        drawn = torch.randint(max(len(between), 1), (_DRAWN,), generator=draws).tolist()
        others = (between[i] for i in drawn if between)
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
    cache: Path | None = None,
    accelerator: str = "auto",
) -> TrainingRecord:
    """Train the codecs of a supernet together; resumable as `train` is.

    They begin as the largest one does by the recipe's start; what it lacks, as others do.

    Args:
        supernet: changed in place.
        recipe: how to train; a step costs as much as one of each codec in it.
        crops: makes the batch of any step.
        distillation: share of the distortion against the largest codec's images.
        directory: where state, log, record and weights go; a training found there is resumed.
        on_progress: called every few steps.
        cache: folder that keeps linear phases.
        accelerator: as for `train`.

    Raises:
        LabError: as `train`.
        KeyboardInterrupt: Ctrl-C, after the state was saved.
    """
    recipe = recipe.suited(supernet.config.latent_channels, supernet.config.rate_levels)
    if directory is None or not (directory / FILE_NAME).exists():
        for config in reversed(supernet.covering):
            is_largest = config is supernet.config
            first = recipe if is_largest else recipe.changed(linear_steps=0)
            codec = build(config, seed=recipe.seed)
            begin(
                codec, first, crops, cache=cache, on_progress=on_progress, accelerator=accelerator
            )
            supernet.take(codec)
    return train(
        supernet,
        recipe.changed(start="none", linear_steps=0, compile=False, cca=0.0),
        crops,
        directory=directory,
        resume=True,
        on_progress=on_progress,
        accelerator=accelerator,
        objective=lambda net, to, _: SandwichLoss(supernet, to, distillation),
    )

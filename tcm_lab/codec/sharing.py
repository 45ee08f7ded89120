"""One set of weights for several codecs: which parts they share, and which are a codec's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tcm_lab.blocks import Extent, LayerConfig
from tcm_lab.codec.config import TransformConfig, VariantConfig, transform_plan
from tcm_lab.codec.model import Codec
from tcm_lab.codec.state_dicts import refuse_other_state, table_names, tied_names
from tcm_lab.errors import ConfigError

#: The extents of every tensor, by its name in the state dict or among shared ones.
Extents = Mapping[str, tuple[Extent, ...]]


def extents_of(codec: Codec) -> dict[str, tuple[Extent, ...]]:
    """Return the groups in each dimension of a codec's tensors; meta tensors suffice.

    A layer whose channels form several groups (heads, gates, branches) declares them by its method
    ``extents()``. Any other dimension is one group, of which a smaller codec has the first places.
    A tensor that occurs several times is listed by its first name.

    Raises:
        LabError: the state of a layer holds something other than tensors.
    """
    refuse_other_state(codec)
    special: dict[str, tuple[Extent | None, ...]] = {}
    for path, module in codec.named_modules():
        if hasattr(module, "extents"):
            layer: Any = module
            special |= {f"{path}.{name}": extents for name, extents in layer.extents().items()}
    left_out = table_names(codec) | tied_names(codec)
    return {
        name: tuple(
            extent or Extent((size,))
            for extent, size in zip(
                special.get(name, (None,) * tensor.ndim), tensor.shape, strict=True
            )
        )
        for name, tensor in codec.state_dict().items()
        if name not in left_out
    }


def shared_names(codec: Codec, largest: VariantConfig) -> dict[str, str]:
    """Return the shared name of each of a codec's tensors.

    A layer is a part of the largest codec's layer at its place if the two differ only in ``shared``
    options. Any other layer, such as another block, has tensors of its own, which all codecs with
    these options share; their path contains the options: ``blocks.type=tcm-sequential.0``.

    Args:
        codec: the codec; meta tensors suffice.
        largest: the codec whose tensors keep their names.
    """
    apart = _options_apart(codec, largest)

    def shared(name: str) -> str:
        path, steps = "", list[str]()
        for step in name.split("."):
            path = f"{path}.{step}" if path else step
            steps += [step, ",".join(apart[path])] if path in apart else [step]
        return ".".join(steps)

    return {name: shared(name) for name in extents_of(codec)}


def _options_apart(codec: Codec, largest: VariantConfig) -> dict[str, list[str]]:
    """Return, by path, the options that keep modules from being a part of the largest codec's."""
    theirs = dict(_layers(largest))
    paths = [path for path, _ in codec.named_modules()]
    apart: dict[str, list[str]] = {}
    for path, layer in _layers(codec.config):
        whole = _fixed_options(theirs[path]) if path in theirs else {}
        for name, value in _fixed_options(layer).items():
            if name in whole and whole[name] == value:
                continue
            # A layer within the layer has modules with the name of its field.
            within, _, option = name.rpartition(".")
            below = [p for p in paths if within and p.startswith(f"{path}.")]
            inner = [p for p in below if p.endswith(f".{within}")]
            for place in inner or [path]:
                words = f"{option if inner else name}={value}".replace(".", "_")
                apart.setdefault(place, []).append(words)
    return apart


def _layers(config: VariantConfig) -> Iterator[tuple[str, LayerConfig]]:
    """Yield every layer with the path of its modules."""
    for name, plan in transform_plan(config).items():
        for i, stage in enumerate(plan.config.stages):
            yield f"{name}.stages.{i}.resample", stage.resample
            yield f"{name}.stages.{i}.attention", stage.attention
            if stage.block is not None:
                yield f"{name}.stages.{i}.blocks", stage.block
    yield config.entropy_model.module_name, config.entropy_model


def _fixed_options(layer: LayerConfig) -> dict[str, Any]:
    """Return the options that layers must have in common to share weights."""
    options: dict[str, Any] = {}
    for field in type(layer).model_fields:
        value = getattr(layer, field)
        if isinstance(value, LayerConfig):
            inner = _fixed_options(value)
            options |= {f"{field}.{option}": own for option, own in inner.items()}
        elif field not in layer.shared:
            options[field] = value
        elif isinstance(value, tuple):  # widths of successive layers
            options[field] = len(value)
    return options


def joined_extents(several: Iterable[Extents]) -> dict[str, tuple[Extent, ...]]:
    """Return the smallest extents that hold each of several."""
    whole: dict[str, tuple[Extent, ...]] = {}
    for extents in several:
        for name, own in extents.items():
            before = whole.get(name, own)
            whole[name] = tuple(a.joined(b) for a, b in zip(before, own, strict=True))
    return whole


def part_of(tensor: Tensor, own: tuple[Extent, ...], whole: tuple[Extent, ...]) -> Tensor:
    """Return the part of a shared tensor that is a codec's own; gradients reach the tensor.

    Args:
        tensor: laid out as ``whole``.
        own: the codec's extents.
        whole: the tensor's extents.

    Returns:
        The tensor itself if nothing is left out.
    """
    part = tensor
    for dim, (mine, full) in enumerate(zip(own, whole, strict=True)):
        runs = mine.runs(full)
        if runs == [(0, full.size)]:
            continue
        pieces = [part.narrow(dim, start, length) for start, length in runs]
        part = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)
    return part


@torch.no_grad()
def put_part(
    tensor: Tensor, part: Tensor, own: tuple[Extent, ...], whole: tuple[Extent, ...]
) -> None:
    """Write a codec's tensor to its place in a shared one."""
    dims = []
    for mine, full in zip(own, whole, strict=True):
        runs = mine.runs(full)
        ends = itertools.accumulate(length for _, length in runs)
        dims.append([(s, end - n, n) for (s, n), end in zip(runs, ends, strict=True)])
    for block in itertools.product(*dims):
        there = tuple(slice(start, start + length) for start, _, length in block)
        here = tuple(slice(start, start + length) for _, start, length in block)
        tensor[there] = part[here]


def check_shared(configs: Iterable[VariantConfig]) -> None:
    """Refuse codecs that one set of weights cannot serve.

    Raises:
        ConfigError: the message names the first field that differs and must not.
    """
    seen: dict[str, Any] = {}
    for config in configs:
        for path, value in _common(config):
            before = seen.setdefault(path, value)
            if before != value:
                raise ConfigError(
                    f"{path}: one set of weights cannot have both {before!r} and {value!r}; it "
                    "serves one latent_channels, rate_levels and shortcut, and one stride of each "
                    "stage. Leave the axis out, or take another estimator"
                )


def _common(config: VariantConfig) -> Iterator[tuple[str, Any]]:
    """Yield every field in which codecs must agree to share weights."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, TransformConfig):
            yield f"{name}.stages, by stride", tuple(s.resample.factor for s in value.stages)
        elif name not in ("name", "hyper_channels", "entropy_model"):
            yield name, value

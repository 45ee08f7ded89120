"""One set of weights for codecs of several sizes: which part of each tensor is whose."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tcm_lab.blocks import Extent, LayerConfig
from tcm_lab.codec.config import TransformConfig, VariantConfig
from tcm_lab.codec.model import DERIVED, Codec
from tcm_lab.errors import ConfigError, one_of

#: The extents of every tensor of a codec, by its name in the state dict.
Layout = Mapping[str, tuple[Extent, ...]]


def layout_of(codec: Codec) -> dict[str, tuple[Extent, ...]]:
    """Return how the dimensions of a codec's tensors are composed; meta tensors will do.

    A layer whose channels lie in several groups (heads, gates, branches) says so by its method
    ``extents()``; any other dimension is one group, of which a smaller codec has the first places.
    """
    special: dict[str, tuple[Extent | None, ...]] = {}
    for path, module in codec.named_modules():
        if hasattr(module, "extents"):
            layer: Any = module
            special |= {f"{path}.{name}": extents for name, extents in layer.extents().items()}
    return {
        name: tuple(
            extent or Extent((size,))
            for extent, size in zip(
                special.get(name, (None,) * tensor.ndim), tensor.shape, strict=True
            )
        )
        for name, tensor in codec.state_dict().items()
        if not name.endswith(DERIVED)
    }


def joined_layout(layouts: Iterable[Layout]) -> dict[str, tuple[Extent, ...]]:
    """Return the smallest layout that holds each of several."""
    whole: dict[str, tuple[Extent, ...]] = {}
    for layout in layouts:
        for name, own in layout.items():
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
        The tensor itself where nothing is left out.
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
    """Refuse codecs that one set of weights can't serve.

    Raises:
        ConfigError: the message names the first field that differs and must not, and those that
            may.
    """
    seen: dict[str, Any] = {}
    options: list[str] = []
    for config in configs:
        options = options or _options(config)
        for path, value in _fixed(config):
            before = seen.setdefault(path, value)
            if _kind(before) != _kind(value):
                raise ConfigError(
                    f"{path}: one set of weights cannot have both {before!r} and {value!r}; it "
                    "serves several widths, depths and hyper_channels and, where the layer is the "
                    f"same, {one_of(options)}. Leave the axis out, or take another "
                    "estimator"
                )


class _Widths(tuple[int, ...]):
    """Widths one behind the other; only their number must agree."""

    __slots__ = ()


def _kind(value: Any) -> Any:
    return len(value) if isinstance(value, _Widths) else value


def _fixed(config: VariantConfig) -> Iterator[tuple[str, Any]]:
    """Yield every field in which codecs must agree to share weights."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, TransformConfig):
            yield f"{name}.stages", len(value.stages)
            for i, stage in enumerate(value.stages):
                for field in ("resample", "block", "attention"):
                    yield from _fixed_of(f"{name}.stages.{i}.{field}", getattr(stage, field))
        elif isinstance(value, LayerConfig):
            yield from _fixed_of(name, value)
        elif name not in ("name", "hyper_channels"):
            yield name, value


def _fixed_of(place: str, layer: LayerConfig | None) -> Iterator[tuple[str, Any]]:
    if layer is None:  # a stage without blocks
        return
    yield place, layer.type
    for field in type(layer).model_fields:
        value = getattr(layer, field)
        if isinstance(value, LayerConfig):
            yield from _fixed_of(f"{place}.{field}", value)
        elif field not in layer.shared:
            yield f"{place}.{field}", value
        elif isinstance(value, tuple):
            yield f"{place}.{field}", _Widths(value)


def _options(config: VariantConfig) -> list[str]:
    """Return the options of a codec's layers over which weights are shared."""
    entropy: Any = config.entropy_model
    layers: list[Any] = [entropy, getattr(entropy, "attention", None)]
    for name in ("g_a", "g_s", "h_a", "h_s"):
        layers += [s.block for s in getattr(config, name).stages]
    return sorted({option for layer in layers if layer is not None for option in layer.shared})

"""Where window attention looks: its weights, their reach and their spread."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tcm_lab._utils import Frozen
from tcm_lab._utils.environment import Environment, environment
from tcm_lab._utils.numbered import numbered
from tcm_lab._utils.progress import OnDone
from tcm_lab.analysis._arrays import Array, ArrayRecord, as_array
from tcm_lab.analysis._probe import (
    Images,
    attention_inputs,
    attention_modules,
    capture,
    image_names,
    iterate_images,
    module_named,
    pitch_px,
    run,
)
from tcm_lab.blocks import WindowAttention
from tcm_lab.blocks.windows import WindowPlan
from tcm_lab.codec import CodecAdapter
from tcm_lab.codec.adapter import unwrapped
from tcm_lab.errors import LabError
from tcm_lab.stats import Interval, mean_interval

_ImagesByHeads = tuple[tuple[float, ...], ...]
"""One row per image, one value per head."""


class AttentionMetrics(Frozen):
    """Metrics of one layer's weights, means over all queries that are not padding.

    Attributes:
        distance_px: weighted distance from the query to the tokens it sees, in image pixels.
        entropy_bits: entropy of the query's weights; log2 of the number of tokens it sees if all
            have the same weight.
        near_share: weight on the query itself and its eight neighbours.
    """

    distance_px: _ImagesByHeads
    entropy_bits: _ImagesByHeads
    near_share: _ImagesByHeads


class LayerAttention(Frozen):
    """One window attention layer, over all images.

    Attributes:
        layer: dotted name of the layer in the model.
        shifted: whether its windows are shifted (SW-MSA).
        window_size: side of its windows in tokens.
        heads: number of heads.
        pitch_px: image pixels per token.
        learned: metrics with the relative position bias, as the model runs.
        without_bias: metrics by contents alone.
        uniform: metrics of equal weights on all visible tokens, for one image and one head.
    """

    layer: str
    shifted: bool
    window_size: int
    heads: int
    pitch_px: float
    learned: AttentionMetrics
    without_bias: AttentionMetrics
    uniform: AttentionMetrics

    @property
    def stage(self) -> str:
        """The stage of the transform, or the slice, that the layer belongs to."""
        path = self.layer.split(".")
        if "stages" in path:
            return ".".join(path[: path.index("stages") + 2])
        return ".".join(path[:2])

    @property
    def label(self) -> str:
        """A short name: stage or slice, and plain (W) or shifted (SW) windows, such as ``1 SW``.

        For a transform with two paths, such as h_s, the path comes first: ``mean 0 W``.
        """
        path, kind = self.layer.split("."), "SW" if self.shifted else "W"
        if "stages" in path:
            at = path.index("stages")
            return " ".join([*path[1:at], path[at + 1], kind])
        if path[0] == "slices":
            return f"{path[1]} {'mean' if path[3:4] == ['0'] else 'scale'} {kind}"
        return f"{'.'.join(path[1:]) or path[0]} {kind}"

    def interval(self, metric: str, *, with_bias: bool = True) -> Interval:
        """Return the mean of a metric over heads, with its interval over images."""
        metrics = self.learned if with_bias else self.without_bias
        return mean_interval([float(np.mean(row)) for row in getattr(metrics, metric)])


class AttentionRecord(Frozen):
    """All window attention layers of a model that ran, in the order of execution."""

    model: str
    images: tuple[str, ...]
    layers: tuple[LayerAttention, ...]
    environment: Environment

    def layers_of(self, transform: str) -> tuple[LayerAttention, ...]:
        """Return the layers of g_a, g_s, h_a, h_s or slices."""
        return tuple(layer for layer in self.layers if layer.layer.split(".")[0] == transform)

    def label_of(self, layer: LayerAttention) -> str:
        """Return the label of a layer, without ``mean`` if mean and scale share their layers.

        ``#2`` marks the second layer with the same label.
        """
        layers = self.layers_of(layer.layer.split(".")[0])
        label = numbered((other.label for other in layers), " #")[layers.index(layer)]
        is_shared = all(other.layer.split(".")[3:4] != ["1"] for other in layers)
        return label.replace(" mean", "") if is_shared else label

    def mean_distance_px(self, transform: str = "g_a") -> Interval:
        """Return the mean attention distance over a transform's layers, their heads and images.

        Raises:
            LabError: no layer of that transform has window attention.
        """
        layers = self.layers_of(transform)
        rows = [[np.mean(heads) for heads in layer.learned.distance_px] for layer in layers]
        if not rows:
            raise LabError(f"{self.model}: no layer of {transform} has window attention")
        return mean_interval([float(value) for value in np.mean(rows, axis=0)])


class AttentionMap(ArrayRecord):
    """The attention of one query.

    Attributes:
        model: name of the model.
        image: name of the image.
        layer: dotted name of the window attention.
        with_bias: whether the relative position bias was added.
        query: (row, column) of the query's token.
        query_px: (row, column) of the requested image pixel.
        pitch_px: image pixels per token.
        weights: (heads, h, w) weights on the map's tokens; zero outside the query's window. Those
            of each head sum to one.
    """

    model: str
    image: str
    layer: str
    with_bias: bool
    query: tuple[int, int]
    query_px: tuple[int, int]
    pitch_px: float
    weights: Array


@torch.no_grad()
def measure_attention(
    codec: nn.Module,
    images: Images,
    *,
    rate: float | None = None,
    on_image: OnDone | None = None,
) -> AttentionRecord:
    """Measure every window attention that runs in a forward pass.

    Args:
        codec: any codec that contains `WindowAttention`.
        images: images of any size, one by one.
        rate: level of a rate-conditioned codec; None is the lowest.
        on_image: callback receiving (images done, total images).

    Raises:
        LabError: the model has no window attention, or there are no images.
    """
    codec = unwrapped(codec)
    known = _window_attentions(codec)
    names = image_names(images)
    # Per image, three (3, heads): with the bias, without it, and for equal weights.
    metrics: dict[str, list[list[Tensor]]] = defaultdict(list)
    pitch: dict[str, float] = {}
    for x in iterate_images(images, codec, on_image):

        def on_input(layer: str, module: WindowAttention, tokens: Tensor, x: Tensor = x) -> None:
            pitch[layer] = pitch_px(codec, x, tokens.shape[1])
            learned, plan = module.weights(tokens)
            bare, _ = module.weights(tokens, with_bias=False)
            equal = (bare > 0).to(bare)[:, :1]
            kinds = (learned, bare, equal / equal.sum(-1, keepdim=True))
            metrics[layer].append([_metrics(w, plan, module, pitch[layer]) for w in kinds])

        with attention_inputs(codec, on_input):
            run(codec, x, rate)
    layers = []
    for layer, rows in metrics.items():
        learned, bare, equal = zip(*rows, strict=True)
        layers.append(
            LayerAttention(
                layer=layer,
                shifted=known[layer].shift > 0,
                window_size=known[layer].window_size,
                heads=known[layer].heads,
                pitch_px=pitch[layer],
                learned=_over_images(learned),
                without_bias=_over_images(bare),
                uniform=_over_images(equal[:1]),
            )
        )
    adapter = CodecAdapter(codec)
    return AttentionRecord(
        model=adapter.name,
        images=names,
        layers=tuple(layers),
        environment=environment(adapter.device),
    )


def check_query(query_px: tuple[int, int], size: tuple[int, int]) -> None:
    """Refuse a (row, column) outside an image of ``size`` (height, width).

    Raises:
        LabError: the message gives both.
    """
    (row, column), (height, width) = query_px, size
    if not (0 <= row < height and 0 <= column < width):
        raise LabError(f"query_px = {query_px}: the image is {height}x{width} pixels")


@torch.no_grad()
def attention_map(
    codec: nn.Module,
    image: Tensor,
    layer: str,
    query_px: tuple[int, int],
    *,
    name: str = "",
    with_bias: bool = True,
    rate: float | None = None,
) -> AttentionMap:
    """Return the attention of the token over one pixel in ``layer``.

    Args:
        codec: any codec that contains `WindowAttention`.
        image: (3, H, W), uint8 or in [0, 1].
        layer: dotted name of the window attention.
        query_px: (row, column) of the pixel.
        name: name of the image.
        with_bias: whether to add the relative position bias.
        rate: level of a rate-conditioned codec; None is the lowest.

    Raises:
        LabError: the layer does not exist or does not run, or the pixel is outside the image.
    """
    codec = unwrapped(codec)
    known = _window_attentions(codec)
    module = module_named(codec, layer)
    if not isinstance(module, WindowAttention):
        raise LabError(
            f"layer '{layer}' is not a window attention; the first ones are "
            f"{', '.join(list(known)[:6])}"
        )
    height, width = (int(side) for side in image.shape[-2:])
    check_query(query_px, (height, width))
    (x,) = iterate_images([image], codec)
    tokens: Tensor = capture(f"layer '{layer}'", module, lambda: run(codec, x, rate), 0)
    weights, plan = module.weights(tokens, with_bias=with_bias)
    _, rows, columns, _ = tokens.shape
    pitch = pitch_px(codec, x, rows)
    row, column = (int(pixel / pitch) for pixel in query_px)
    query = (min(row, rows - 1), min(column, columns - 1))
    return AttentionMap(
        model=CodecAdapter(codec).name,
        image=name,
        layer=layer,
        with_bias=with_bias,
        query=query,
        query_px=query_px,
        pitch_px=pitch,
        weights=as_array(spread_over_map(weights, plan, (rows, columns), query)),
    )


def spread_over_map(
    weights: Tensor, plan: WindowPlan, size: tuple[int, int], query: tuple[int, int]
) -> Tensor:
    """Return one query's weights (heads, h, w) on the map that the windows were cut from.

    Args:
        weights: (windows, heads, N, N) of one map.
        plan: layout of the windows.
        size: (h, w) of the map.
        query: (row, column) of the query's token.
    """
    target = int(plan.target[query[0] * size[1] + query[1]])
    window, token = divmod(target, plan.tokens)
    row = weights[window, :, token]
    # The source of padding is row 0; its weight is zero, so it adds nothing there.
    source = plan.source[window * plan.tokens : (window + 1) * plan.tokens]
    flat = row.new_zeros(row.shape[0], size[0] * size[1])
    spread: Tensor = flat.index_add_(1, source, row).unflatten(1, size)
    return spread


def _metrics(weights: Tensor, plan: WindowPlan, module: WindowAttention, pitch: float) -> Tensor:
    """Return the `AttentionMetrics` (3, heads) of one image's weights (windows, heads, N, N)."""
    axis = torch.arange(module.window_size, device=weights.device, dtype=torch.float64)
    positions = torch.cartesian_prod(axis, axis)
    offsets = positions[:, None] - positions
    real = weights.new_ones(weights.shape[0], plan.tokens, dtype=torch.float64)
    if plan.padding is not None:
        real = (~plan.padding).double().view_as(real)
    per_query = (
        (weights * (offsets.norm(dim=-1) * pitch).to(weights)).sum(-1),
        -torch.xlogy(weights, weights).sum(-1) / np.log(2),
        (weights * (offsets.abs().amax(-1) <= 1)).sum(-1),
    )
    return torch.stack(
        [torch.einsum("whn,wn->h", values.double(), real) / real.sum() for values in per_query]
    )


def _over_images(metrics: Sequence[Tensor]) -> AttentionMetrics:
    by_name = torch.stack(list(metrics), dim=1).tolist()
    return AttentionMetrics(**dict(zip(AttentionMetrics.model_fields, by_name, strict=True)))


def _window_attentions(codec: nn.Module) -> dict[str, WindowAttention]:
    known = attention_modules(codec)
    if not known:
        raise LabError(f"{CodecAdapter(codec).name} has no window attention to analyse")
    return known

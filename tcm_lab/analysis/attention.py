"""Where window attention looks: its weights, how far they reach, and how they are spread."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tcm_lab._utils import Frozen
from tcm_lab._utils.environment import Environment, environment
from tcm_lab._utils.progress import OnDone
from tcm_lab.analysis._arrays import Array, ArrayRecord
from tcm_lab.analysis._estimate import Estimate, mean_estimate
from tcm_lab.analysis._images import Images, device_of, iterate_images, names_of
from tcm_lab.analysis._probe import (
    Seen,
    attention_inputs,
    attention_modules,
    evaluating,
    forward,
    model_name,
    module_named,
)
from tcm_lab.blocks import WindowAttention
from tcm_lab.blocks.windows import WindowPlan
from tcm_lab.errors import LabError

Figures = tuple[tuple[float, ...], ...]
"""One row per image, one figure per head."""


class AttentionFigures(Frozen):
    """What the weights of one layer amount to, means over all queries that are no padding.

    Attributes:
        distance_px: weighted distance from the query to what it sees, in image pixels.
        entropy_bits: of each query's weights; log2 of the tokens it sees if all weigh the same.
        near_share: weight on the query itself and its eight neighbours.
    """

    distance_px: Figures
    entropy_bits: Figures
    near_share: Figures


class LayerAttention(Frozen):
    """One window attention, over all images.

    Attributes:
        layer: its dotted name in the model.
        shifted: whether it is SW-MSA.
        window_size: side of its windows in tokens.
        heads: how many.
        pitch_px: image pixels per token.
        learned: with the relative position bias, as the model runs.
        without_bias: by contents alone.
        uniform: one image, one head: what equal weights on all that is seen would give.
    """

    layer: str
    shifted: bool
    window_size: int
    heads: int
    pitch_px: float
    learned: AttentionFigures
    without_bias: AttentionFigures
    uniform: AttentionFigures

    @property
    def stage(self) -> str:
        """The stage of the transform, or the slice, that it belongs to."""
        path = self.layer.split(".")
        if "stages" in path:
            return ".".join(path[: path.index("stages") + 2])
        return ".".join(path[:2])

    def estimate(self, figure: str, *, with_bias: bool = True) -> Estimate:
        """Return the mean of ``figure`` over heads, with its interval over images."""
        figures = self.learned if with_bias else self.without_bias
        return mean_estimate([float(np.mean(row)) for row in getattr(figures, figure)])


class AttentionRecord(Frozen):
    """All window attentions of a model that ran.

    Attributes:
        model: name of the model.
        images: names of the images.
        layers: in the order of the data's flow.
        environment: device, threads, versions.
    """

    model: str
    images: tuple[str, ...]
    layers: tuple[LayerAttention, ...]
    environment: Environment

    def mean_distance_px(self, transform: str = "g_a") -> Estimate:
        """Return the mean attention distance over a transform's layers, their heads and images.

        Raises:
            LabError: no layer of that transform attends.
        """
        rows = [
            [np.mean(row) for row in layer.learned.distance_px]
            for layer in self.layers
            if layer.layer.split(".")[0] == transform
        ]
        if not rows:
            raise LabError(f"{self.model}: no layer of {transform} has window attention")
        return mean_estimate([float(value) for value in np.mean(rows, axis=0)])


class AttentionMap(ArrayRecord):
    """What one query sees.

    Attributes:
        model: name of the model.
        image: name of the image.
        layer: dotted name of the window attention.
        with_bias: whether the relative position bias was added.
        query: (row, column) of the query's token.
        query_px: the image pixel that was asked for.
        pitch_px: image pixels per token.
        weights: (heads, h, w) weights on the map's tokens; zero outside of the query's window.
            Each head's sum to one.
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
        codec: any model with `WindowAttention` in it.
        images: images of any size, one by one.
        rate: level of a rate-conditioned codec.
        on_image: told how many images are done, of how many.

    Raises:
        LabError: the model has no window attention, or there is no image.
    """
    known = _need_attention(codec)
    names = names_of(images)
    found: dict[str, list[tuple[_Rows, _Rows]]] = {}
    uniform: dict[str, AttentionFigures] = {}
    pitch: dict[str, float] = {}
    for x in iterate_images(images, codec, on_image):

        def on_input(layer: str, module: WindowAttention, tokens: Tensor, x: Tensor = x) -> None:
            pitch[layer] = _pitch(codec, x, tokens)
            both = []
            for with_bias in (True, False):
                weights, plan = module.weights(tokens, with_bias=with_bias)
                both.append(_rows(weights, plan, module.window_size, pitch[layer]))
                if layer not in uniform:
                    equal = (weights > 0).to(weights)
                    equal = (equal / equal.sum(-1, keepdim=True))[:, :1]
                    rows = _rows(equal, plan, module.window_size, pitch[layer])
                    uniform[layer] = _figures([rows])
            found.setdefault(layer, []).append((both[0], both[1]))

        with evaluating(codec), attention_inputs(codec, on_input):
            forward(codec, x, rate)
    return AttentionRecord(
        model=model_name(codec),
        images=names,
        layers=tuple(
            LayerAttention(
                layer=layer,
                shifted=known[layer].shift > 0,
                window_size=known[layer].window_size,
                heads=known[layer].heads,
                pitch_px=pitch[layer],
                learned=_figures([learned for learned, _ in rows]),
                without_bias=_figures([bare for _, bare in rows]),
                uniform=uniform[layer],
            )
            for layer, rows in found.items()
        ),
        environment=environment(device_of(codec)),
    )


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
    """Return what the token over one pixel sees in ``layer``.

    Args:
        codec: any model with `WindowAttention` in it.
        image: (3, H, W), uint8 or in [0, 1].
        layer: dotted name of the window attention.
        query_px: (row, column) of the pixel.
        name: of the image.
        with_bias: whether to add the relative position bias.
        rate: level of a rate-conditioned codec.

    Raises:
        LabError: there is no such layer, it does not run, or the pixel is outside of the image.
    """
    _need_attention(codec)
    if not isinstance(module_named(codec, layer), WindowAttention):
        raise LabError(
            f"layer '{layer}': is no window attention; there are "
            f"{', '.join(list(attention_modules(codec))[:6])} …"
        )
    height, width = image.shape[-2:]
    if not (0 <= query_px[0] < height and 0 <= query_px[1] < width):
        raise LabError(f"query_px = {query_px}: the image is {height}x{width} pixels")
    found: list[tuple[tuple[int, int], float]] = []
    (x,) = iterate_images([image], codec)

    def on_input(ran: str, module: WindowAttention, tokens: Tensor) -> None:
        if ran != layer:
            return
        pitch = _pitch(codec, x, tokens)
        row = min(int(query_px[0] / pitch), tokens.shape[1] - 1)
        column = min(int(query_px[1] / pitch), tokens.shape[2] - 1)
        weights, plan = module.weights(tokens, with_bias=with_bias)
        found.append(((row, column), pitch))
        raise Seen(
            spread_over_map(weights, plan, (tokens.shape[1], tokens.shape[2]), (row, column))
        )

    try:
        with evaluating(codec), attention_inputs(codec, on_input):
            forward(codec, x, rate)
        raise LabError(f"layer '{layer}': does not run in a forward pass")
    except Seen as seen:
        weights = seen.value
    query, pitch = found[0]
    return AttentionMap(
        model=model_name(codec),
        image=name,
        layer=layer,
        with_bias=with_bias,
        query=query,
        query_px=query_px,
        pitch_px=pitch,
        weights=weights.cpu().numpy(),
    )


def spread_over_map(
    weights: Tensor, plan: WindowPlan, size: tuple[int, int], query: tuple[int, int]
) -> Tensor:
    """Return one query's weights (heads, h, w) laid out on the map that the windows were cut from.

    Args:
        weights: (windows, heads, N, N) of one map.
        plan: of the windows.
        size: (h, w) of the map.
        query: (row, column) of the query's token.
    """
    place = int(plan.target[query[0] * size[1] + query[1]])
    window_size, token = divmod(place, plan.tokens)
    row = weights[window_size, :, token]
    # Padding stands for row 0, where it would be counted in: it was never seen, so it adds zero.
    source = plan.source[window_size * plan.tokens : (window_size + 1) * plan.tokens]
    flat = row.new_zeros(row.shape[0], size[0] * size[1])
    flat.index_add_(1, source, row)
    laid: Tensor = flat.unflatten(1, size)
    return laid


class _Rows(Frozen):
    """One image's figures, one per head."""

    distance_px: tuple[float, ...]
    entropy_bits: tuple[float, ...]
    near_share: tuple[float, ...]


def _rows(weights: Tensor, plan: WindowPlan, window_size: int, pitch: float) -> _Rows:
    """Sum up weights (windows, heads, N, N) over all queries that are no padding."""
    axis = torch.arange(window_size, device=weights.device, dtype=torch.float64)
    y, x = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
    dy, dx = y[:, None] - y[None, :], x[:, None] - x[None, :]
    distance = torch.hypot(dy, dx) * pitch
    near = (torch.maximum(dy.abs(), dx.abs()) <= 1).to(weights)
    real = torch.ones(weights.shape[0], plan.tokens, device=weights.device)
    if plan.padding is not None:
        real = (~plan.padding).float().view_as(real)

    def mean(per_query: Tensor) -> tuple[float, ...]:
        """Average (windows, heads, N) over real queries, per head."""
        total = torch.einsum("whn,wn->h", per_query.double(), real.double()) / real.double().sum()
        return tuple(total.tolist())

    entropy = -torch.xlogy(weights, weights).sum(-1) / np.log(2)
    return _Rows(
        distance_px=mean((weights * distance.to(weights)).sum(-1)),
        entropy_bits=mean(entropy),
        near_share=mean((weights * near).sum(-1)),
    )


def _figures(rows: list[_Rows]) -> AttentionFigures:
    return AttentionFigures(
        distance_px=tuple(row.distance_px for row in rows),
        entropy_bits=tuple(row.entropy_bits for row in rows),
        near_share=tuple(row.near_share for row in rows),
    )


def _pitch(codec: nn.Module, x: Tensor, tokens: Tensor) -> float:
    """Return the image pixels per token: of the padded image, a whole number."""
    config: Any = getattr(codec, "config", None)
    height = x.shape[-2]
    if config is not None:
        stride = config.stride[1]
        height = -(-height // stride) * stride
    return float(height / tokens.shape[1])


def _need_attention(codec: nn.Module) -> dict[str, WindowAttention]:
    known = attention_modules(codec)
    if not known:
        raise LabError(f"{model_name(codec)}: has no window attention to look at")
    return known

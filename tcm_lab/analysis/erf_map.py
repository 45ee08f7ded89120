"""The record of an effective receptive field, and the average of several images' records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from tcm_lab._utils import Frozen
from tcm_lab._utils.environment import Environment
from tcm_lab.analysis._arrays import Array, ArrayRecord
from tcm_lab.errors import LabError

Method = Literal["frobenius", "sum", "single-channel"]
METHODS: tuple[Method, ...] = ("frobenius", "sum", "single-channel")


class WindowGrid(Frozen):
    """Where the windows of an attention layer meet, in positions of the map that is drawn.

    Attributes:
        layer: the attention's place in the model.
        window_size: side of a window.
        offset: where the first window begins; not 0 where windows are shifted.
        pitch: input positions per token.
    """

    layer: str
    window_size: float
    offset: float
    pitch: float


class ErfMap(ArrayRecord):
    """The effective receptive field of one position, as shares that sum to one.

    Attributes:
        model: name of the model.
        of: what the position belongs to: ``y``, a layer's name, ``x_hat``, ``mean of slice 2``.
        wrt: what it depends on, which the map shows: ``image``, ``y`` or ``y_hat``.
        method: ``frobenius``: squared gradients of all channels; ``sum``: absolute gradient of
            the channels' sum; ``single-channel``: absolute gradient of one channel.
        channel: which, where the method looks at one.
        probes: random sign vectors per image; 0 where every channel was differentiated.
        seed: of the probes.
        images: names of the images. Each one's map sums to one before they are averaged, so that
            each has the same say.
        position: (row, column) of ``of``'s map that was differentiated.
        centre: (row, column) on this map of the middle of the position's field.
        pitch_px: image pixels per position of this map.
        scores: (H, W), each position's share; sums to one.
        standard_error: (H, W) of the scores, from the probes alone; zero where all was computed.
        convolutions: (H, W), 1 where a path of convolutions leads, attention left out.
        grids: windows of the attention layers between the two.
        environment: device, threads, versions.
    """

    model: str
    of: str
    wrt: Literal["image", "y", "y_hat"]
    method: Method
    channel: int | None = None
    probes: int
    seed: int
    images: tuple[str, ...]
    position: tuple[int, int]
    centre: tuple[float, float]
    pitch_px: float
    scores: Array
    standard_error: Array
    convolutions: Array
    grids: tuple[WindowGrid, ...] = ()
    environment: Environment


def mean_field(maps: Sequence[ErfMap]) -> ErfMap:
    """Return the average of several images' fields of the same position.

    Raises:
        LabError: there is none, or they are not of the same thing.
    """
    if not maps:
        raise LabError("maps: there is none to average.")
    first = maps[0]
    for other in maps:
        for what in ("model", "of", "wrt", "method", "channel", "position", "centre"):
            if getattr(other, what) != getattr(first, what):
                raise LabError(
                    f"maps of different {what} have no average: "
                    f"{getattr(first, what)} and {getattr(other, what)}"
                )
    scores = np.mean([m.scores.astype(np.float64) for m in maps], axis=0)
    variance = np.sum([m.standard_error.astype(np.float64) ** 2 for m in maps], axis=0)
    return first.model_copy(
        update={
            "images": tuple(name for m in maps for name in m.images),
            "scores": scores.astype(np.float32),
            "standard_error": (np.sqrt(variance) / len(maps)).astype(np.float32),
        }
    )

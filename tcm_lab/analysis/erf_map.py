"""Effective receptive fields as values, and their measures.

Measures use the raw shares, so they do not depend on the gradient's scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tcm_lab._utils import Frozen
from tcm_lab._utils.environment import Environment
from tcm_lab.analysis._arrays import Array, ArrayRecord
from tcm_lab.codec.config import Shortcut
from tcm_lab.errors import LabError
from tcm_lab.stats import Draw, Interval, bootstrap
from tcm_lab.stats import shares as image_weights

ErfMethod = Literal["frobenius", "sum", "single-channel"]
_Index = Annotated[int, Field(ge=0, le=2**16)]
_SHARES = (0.2, 0.3, 0.5, 0.95, 0.99)
_Floats = NDArray[np.float64]


class ErfOptions(Frozen):
    """How an effective receptive field is estimated.

    Attributes:
        layer: dotted name of the module whose output is analysed; None is g_a, whose output is y.
        method: ``frobenius``: squared gradients of all channels, independent of the latent's scale
            and of the choice of a channel; ``sum``: absolute gradient of the channels' sum;
            ``single-channel``: absolute gradient of one channel. Published images show one of the
            last two.
        channel: the channel for ``single-channel``; None is the one that varies most.
        probes: number of random sign vectors per image; None, or a number not below that of the
            channels, differentiates every channel.
        seed: seed of the probes.
        at: (row, column) of the position; None is (h // 2, w // 2).
        side: maximum side of each image's centre crop, in pixels; None is the largest crop that the
            images have in common.
        rate: level of a rate-conditioned codec; None is the lowest.
    """

    layer: str | None = None
    method: ErfMethod = "frobenius"
    channel: int | None = Field(default=None, ge=0, le=2**16)
    probes: int | None = Field(default=16, ge=2, le=2**16)
    seed: int = Field(default=0, ge=0, le=2**32)
    at: tuple[_Index, _Index] | None = None
    side: int | None = Field(default=None, gt=0, le=2**16)
    rate: float | None = Field(default=None, ge=0, le=64)


class WindowGrid(Frozen):
    """The grid of an attention layer's windows, in positions of the `ErfMap`.

    Attributes:
        layer: dotted name of the attention in the model.
        window_size: side of a window.
        offset: start of the first window; not 0 if windows are shifted.
        pitch: positions per token.
    """

    layer: str
    window_size: float
    offset: float
    pitch: float


class ErfMap(ArrayRecord):
    """The effective receptive field of one position, as shares that sum to one.

    Attributes:
        model: name of the model.
        of: map of the position: ``y``, a layer's name, ``x_hat``, ``mean of slice 2``.
        wrt: map that the position depends on, which is shown: ``image``, ``y`` or ``y_hat``.
        method: see `ErfOptions`.
        channel: the channel, for ``single-channel``.
        probes: number of random sign vectors per image; 0 if every channel was differentiated.
        seed: seed of the probes.
        images: names of the images. Each image's map sums to one before averaging, so that all have
            the same weight.
        position: (row, column) of the position in the map ``of``.
        centre: (row, column) of the field's centre on this map: that of its convolutions; or, with
            linear shortcuts in it, which hold most of the energy and lie elsewhere, the energy's
            centre of mass to half a position.
        pitch_px: image pixels per position of this map.
        scores: (H, W), each position's share; sums to one.
        standard_error: (H, W) of the scores, due to the probes alone; zero without probes.
        convolutions: (H, W), 1 where a path of convolutions leads, without attention.
        grids: windows of the attention layers between the two maps; empty with linear shortcuts in
            the field, whose blocks have the same edges.
        shortcut: linear shortcut of the whole transform that is part of the field, if any.
        environment: device, threads, versions.
    """

    model: str
    of: str
    wrt: Literal["image", "y", "y_hat"]
    method: ErfMethod
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
    shortcut: Shortcut = "none"
    environment: Environment

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.scores.shape
        return height, width

    def profile(self) -> _Floats:
        """Return the share inside the centred square of side 1, 2, 3 … positions."""
        dy, dx = self._offsets()
        # Ring k is at Chebyshev distance k / 2, so that centres between two positions have rings.
        rings = np.round(2 * np.maximum(np.abs(dy)[:, None], np.abs(dx)[None, :])).astype(np.int64)
        total = np.bincount(rings.ravel(), weights=self.scores.ravel().astype(np.float64)).cumsum()
        inside: _Floats = total / total[-1]
        return inside

    def _offsets(self) -> tuple[_Floats, _Floats]:
        """Return the distances of rows and columns from the centre."""
        height, width = self.shape
        return np.arange(height) - self.centre[0], np.arange(width) - self.centre[1]


def mean_erf(maps: Sequence[ErfMap]) -> ErfMap:
    """Return the average of several images' maps of the same position.

    Raises:
        LabError: there are no maps, or they do not belong together.
    """
    _check_alike(maps)
    scores = np.mean([m.scores.astype(np.float64) for m in maps], axis=0)
    variance = np.sum([m.standard_error.astype(np.float64) ** 2 for m in maps], axis=0)
    return maps[0].model_copy(
        update={
            "images": tuple(name for m in maps for name in m.images),
            "scores": scores.astype(np.float32),
            "standard_error": (np.sqrt(variance) / len(maps)).astype(np.float32),
        }
    )


def _check_alike(maps: Sequence[ErfMap]) -> None:
    """Refuse maps that differ in anything but the image, or none at all."""
    if not maps:
        raise LabError("no maps to average")
    for field in ("model", "of", "wrt", "method", "channel", "position", "centre", "shape"):
        values = list(dict.fromkeys(getattr(erf, field) for erf in maps))
        if len(values) > 1:
            raise LabError(
                f"maps of different {field} cannot be averaged: {values[0]} and {values[1]}"
            )


class ErfMeasures(Frozen):
    """How far a position reaches, over the images of its maps.

    Attributes:
        model: name of the model.
        of: map of the position.
        images: number of images.
        side_px: by share of the contribution, the side of the smallest centred square with that
            share, in image pixels.
        area: by share, the area of that square over that of the whole map.
        radius_px: root of the mean squared distance from the centre, weighted by the shares.
        within_convolutions: share at positions that a path of convolutions reaches.
        anisotropy: longer over shorter axis of the field's second moments; 1 is round.
        grid_visibility: by spacing and offset of the windows in pixels ("64+32"), how many times
            more the map changes between neighbours at window borders than elsewhere; 1 is
            invisible.
        shortcut: linear shortcut of the whole transform that is part of the field, if any.
    """

    model: str
    of: str
    images: int
    side_px: dict[float, Interval]
    area: dict[float, Interval]
    radius_px: Interval
    within_convolutions: Interval
    anisotropy: Interval
    grid_visibility: dict[str, float]
    shortcut: Shortcut = "none"


def measure_erf(
    maps: ErfMap | Sequence[ErfMap], *, shares: Sequence[float] = _SHARES, seed: int = 0
) -> ErfMeasures:
    """Measure one map, or the average of several images' maps with intervals over the images.

    Args:
        maps: one map; or one per image, which are resampled for the intervals.
        shares: shares of the contribution, each between 0 and 1.
        seed: seed of the resampling.

    Raises:
        LabError: there are no maps, they do not belong together, or a share is out of range.
    """
    several = (maps,) if isinstance(maps, ErfMap) else tuple(maps)
    if any(not 0 < share <= 1 for share in shares):
        raise LabError(f"shares = {tuple(shares)}: each must be above 0 and at most 1")
    mean = mean_erf(several)
    pitch, (height, width) = mean.pitch_px, mean.shape
    sums = _Sums.of(several)

    def interval(measure: Callable[..., _Floats], *share: float) -> Interval:
        return _over_images(lambda draw: measure(sums.mean(draw), *share), len(several), seed)

    def area(sums: _Sums, share: float) -> _Floats:
        side = sums.side(share)
        covered: _Floats = np.minimum(side, height) * np.minimum(side, width) / (height * width)
        return covered

    return ErfMeasures(
        model=mean.model,
        of=mean.of,
        images=len(several),
        side_px={p: interval(lambda sums, share: pitch * sums.side(share), p) for p in shares},
        area={p: interval(area, p) for p in shares},
        radius_px=interval(lambda sums: pitch * sums.radius()),
        within_convolutions=interval(lambda sums: sums.moments[:, 3]),
        anisotropy=interval(_Sums.anisotropy),
        grid_visibility={
            f"{grid.window_size * pitch:g}+{grid.offset * pitch:g}": visibility
            for grid in mean.grids
            if (visibility := grid_visibility(mean, grid)) is not None
        },
        shortcut=mean.shortcut,
    )


def reach_ratio(
    maps: Sequence[ErfMap],
    baseline: Sequence[ErfMap],
    share: float | None = None,
    *,
    seed: int = 0,
) -> Interval:
    """Return the ratio of one codec's reach to another's.

    Images are resampled together, since an image that widens one field may widen the other.

    Args:
        maps: one map per image.
        baseline: the other codec's maps, of the same images in the same order.
        share: compare the sides of the squares with this share; None compares the radii.
        seed: seed of the resampling.

    Raises:
        LabError: the maps are of different images, or those of one codec do not belong together.
    """
    _check_alike(maps)
    _check_alike(baseline)
    names = [tuple(name for erf in side for name in erf.images) for side in (maps, baseline)]
    if names[0] != names[1]:
        raise LabError(f"maps of different images cannot be compared: {names[0]} and {names[1]}")
    ours, theirs = _Sums.of(maps), _Sums.of(baseline)
    pitch = maps[0].pitch_px / baseline[0].pitch_px

    def reach(sums: _Sums) -> _Floats:
        return sums.radius() if share is None else sums.side(share)

    return _over_images(
        lambda draw: pitch * reach(ours.mean(draw)) / reach(theirs.mean(draw)), len(maps), seed
    )


def _over_images(statistic: Callable[[Draw], _Floats], images: int, seed: int) -> Interval:
    return bootstrap(statistic, {"images": images}, seed=seed, vectorized=True)


def grid_visibility(erf: ErfMap, grid: WindowGrid) -> float | None:
    """Return how many times more a map changes at window borders than elsewhere; None without any.

    A change is Σ|a − b| over Σ(a + b) of neighbouring positions, so that it depends neither on
    faint parts nor on the scale. A border lies between two tokens, and convolutions blur it over
    about one token: that is the width of the band in which changes are counted as the border's.
    """
    scores = erf.scores.astype(np.float64)
    at_border, elsewhere = np.zeros(2), np.zeros(2)
    for axis in (0, 1):
        a, b = (scores, scores.T)[axis][:-1], (scores, scores.T)[axis][1:]
        changes = np.stack([np.abs(a - b).sum(1), (a + b).sum(1)], axis=1)
        # Token t lies at position t·pitch: windows meet half a pitch before their first token.
        offset = np.arange(len(changes)) + 0.5 - (grid.offset - grid.pitch / 2)
        distance = np.abs((offset + grid.window_size / 2) % grid.window_size - grid.window_size / 2)
        near = distance <= grid.pitch / 2
        changes[len(changes) + 1 - int(grid.pitch) :] = 0  # no windows meet behind the last token
        at_border += changes[near].sum(0)
        elsewhere += changes[~near].sum(0)
    if min(at_border[1], elsewhere[1]) <= 0:
        return None
    usual = elsewhere[0] / elsewhere[1]
    return float(at_border[0] / at_border[1] / usual) if usual > 0 else float("inf")


class _Sums(NamedTuple):
    """Sums that determine the measures, so that resamples need not average whole maps.

    Attributes:
        profiles: (N, K) profile of each image, or of each resample; see `ErfMap.profile`.
        moments: (N, 4) second moments: rows, columns, mixed; and the share within the convolutions'
            field.
    """

    profiles: _Floats
    moments: _Floats

    @classmethod
    def of(cls, maps: Sequence[ErfMap]) -> _Sums:
        moments = []
        for erf in maps:
            s, (dy, dx) = erf.scores.astype(np.float64), erf._offsets()
            moments.append(
                (s.sum(1) @ dy**2, s.sum(0) @ dx**2, dy @ s @ dx, (s * erf.convolutions).sum())
            )
        return cls(np.stack([erf.profile() for erf in maps]), np.array(moments))

    def mean(self, draw: Draw) -> _Sums:
        weights = image_weights(draw["images"])
        return _Sums(weights @ self.profiles, weights @ self.moments)

    def side(self, share: float) -> _Floats:
        """Return the side of the smallest square with ``share``, in positions."""
        side: _Floats = (self.profiles >= share - 1e-6).argmax(1) + 1.0
        return side

    def radius(self) -> _Floats:
        """Return the second-moment radius, in positions."""
        return np.sqrt(self.moments[:, 0] + self.moments[:, 1])

    def anisotropy(self) -> _Floats:
        """Return the ratio of the axes, from the eigenvalues of the second moments."""
        rows, columns, mixed, _ = self.moments.T
        middle = (rows + columns) / 2
        half = np.sqrt(((rows - columns) / 2) ** 2 + mixed**2)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio: _Floats = np.sqrt((middle + half) / np.maximum(middle - half, 0))
        return np.where(middle == 0, 1.0, ratio)

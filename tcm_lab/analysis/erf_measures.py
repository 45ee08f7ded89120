"""What is measured on an effective receptive field: on the raw shares, so free of any scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcm_lab._utils import Frozen
from tcm_lab.analysis._estimate import Estimate, estimate_from, resample
from tcm_lab.analysis.erf_map import ErfMap, WindowGrid, mean_field
from tcm_lab.errors import LabError

SHARES = (0.2, 0.3, 0.5, 0.95, 0.99)
_Floats = NDArray[np.float64]


class ErfMeasures(Frozen):
    """How far a position reaches, over the images of its maps.

    Attributes:
        model: name of the model.
        of: what the position belongs to.
        images: how many images.
        side_px: by share of the contribution, the side of the smallest centred square that holds
            it, in image pixels.
        area: by share, that square's area over the whole map's.
        radius_px: root of the mean squared distance from the centre, weighted by the shares.
        within_convolutions: share that falls where a path of convolutions leads.
        anisotropy: longer over shorter axis of the field's second moments; 1 is round.
        grid_visibility: by spacing and offset of the windows in pixels ("64+32"), how much more
            the map changes between neighbours where windows meet than elsewhere; 1 is invisible.
    """

    model: str
    of: str
    images: int
    side_px: dict[float, Estimate]
    area: dict[float, Estimate]
    radius_px: Estimate
    within_convolutions: Estimate
    anisotropy: Estimate
    grid_visibility: dict[str, float]


def measure_field(
    maps: ErfMap | Sequence[ErfMap], *, shares: Sequence[float] = SHARES, seed: int = 0
) -> ErfMeasures:
    """Measure one map, or the average of several images' maps with intervals over the images.

    Args:
        maps: one map; or one for each image, which are resampled for the intervals.
        shares: of the contribution, each between 0 and 1.
        seed: of the resampling.

    Raises:
        LabError: there is no map, the maps are of different things, or a share is out of range.
    """
    several = (maps,) if isinstance(maps, ErfMap) else tuple(maps)
    if any(not 0 < share <= 1 for share in shares):
        raise LabError(f"shares = {tuple(shares)}: each must be above 0 and at most 1")
    mean = mean_field(several)
    pitch, size = mean.pitch_px, mean.scores.shape
    sums = _Sums.of(several, resample(len(several), seed))
    sides = {share: sums.sides(share) for share in shares}

    def estimate(figures: _Floats) -> Estimate:
        return estimate_from(figures, len(several))

    return ErfMeasures(
        model=mean.model,
        of=mean.of,
        images=len(several),
        side_px={share: estimate(side * pitch) for share, side in sides.items()},
        area={
            share: estimate(
                np.minimum(side, size[0]) * np.minimum(side, size[1]) / mean.scores.size
            )
            for share, side in sides.items()
        },
        radius_px=estimate(sums.radii() * pitch),
        within_convolutions=estimate(sums.within),
        anisotropy=estimate(sums.anisotropies()),
        grid_visibility={
            f"{grid.window_size * pitch:g}+{grid.offset * pitch:g}": seen
            for grid in mean.grids
            if (seen := grid_visibility(mean, grid)) is not None
        },
    )


def reach_ratio(
    maps: Sequence[ErfMap],
    baseline: Sequence[ErfMap],
    share: float | None = None,
    *,
    seed: int = 0,
) -> Estimate:
    """Return how many times as far one codec's position reaches as another's.

    Images are resampled together, since what widens one field may widen the other.

    Args:
        maps: one map per image.
        baseline: the other codec's, of the same images in the same order.
        share: compares the sides of the squares that hold it; None compares the radii.
        seed: of the resampling.

    Raises:
        LabError: the maps are not of the same images.
    """
    names = [
        tuple(name for field in fields for name in field.images) for fields in (maps, baseline)
    ]
    if names[0] != names[1]:
        raise LabError(f"maps of different images do not compare: {names[0]} and {names[1]}")
    weights = resample(len(maps), seed)
    ours, theirs = (_Sums.of(fields, weights) for fields in (maps, baseline))
    pitch = maps[0].pitch_px / baseline[0].pitch_px
    if share is None:
        return estimate_from(pitch * ours.radii() / theirs.radii(), len(maps))
    return estimate_from(pitch * ours.sides(share) / theirs.sides(share), len(maps))


def grid_visibility(field: ErfMap, grid: WindowGrid) -> float | None:
    """Return how much more a map changes where windows meet than elsewhere; None if none meet.

    A change is Σ|a − b| over Σ(a + b) of neighbouring positions, so that faint parts and any
    scale have no say. A window's border lies between two tokens, which convolutions blur over
    about one token: that wide is the band in which it is looked for.
    """
    scores = field.scores.astype(np.float64)
    at_border, elsewhere = np.zeros(2), np.zeros(2)
    for axis in (0, 1):
        a, b = (scores, scores.T)[axis][:-1], (scores, scores.T)[axis][1:]
        changes = np.stack([np.abs(a - b).sum(1), (a + b).sum(1)], axis=1)
        # Token t lies at position t·pitch: windows meet half a pitch before their first token.
        place = np.arange(len(changes)) + 0.5 - (grid.offset - grid.pitch / 2)
        distance = np.abs((place + grid.window_size / 2) % grid.window_size - grid.window_size / 2)
        near = distance <= grid.pitch / 2
        changes[len(changes) + 1 - int(grid.pitch) :] = 0  # behind the last token none meet
        at_border += changes[near].sum(0)
        elsewhere += changes[~near].sum(0)
    if min(at_border[1], elsewhere[1]) <= 0:
        return None
    usual = elsewhere[0] / elsewhere[1]
    return float(at_border[0] / at_border[1] / usual) if usual > 0 else float("inf")


class _Sums(NamedTuple):
    """What everything but the grid follows from, one row per resample: maps are not needed again.

    Attributes:
        profiles: shares by ring; ring k is at Chebyshev distance k / 2 from the centre, so that
            centres between two positions have rings too.
        rows: second moment of the rows.
        columns: second moment of the columns.
        mixed: mixed moment.
        within: share on the convolutions' field.
    """

    profiles: _Floats
    rows: _Floats
    columns: _Floats
    mixed: _Floats
    within: _Floats

    @classmethod
    def of(cls, maps: Sequence[ErfMap], weights: _Floats) -> _Sums:
        """Sum up maps, each resample weighing them by a row of ``weights`` (R, maps)."""
        dy, dx = (
            np.arange(length) - middle
            for length, middle in zip(maps[0].scores.shape, maps[0].centre, strict=True)
        )
        rings = np.round(2 * np.maximum(np.abs(dy)[:, None], np.abs(dx)[None, :])).astype(np.int64)
        stack = [field.scores.astype(np.float64) for field in maps]
        profiles = np.stack([np.bincount(rings.ravel(), weights=s.ravel()) for s in stack])
        moments = np.array(
            [
                [
                    (s.sum(1) * dy**2).sum(),
                    (s.sum(0) * dx**2).sum(),
                    dy @ s @ dx,
                    (s * field.convolutions).sum(),
                ]
                for s, field in zip(stack, maps, strict=True)
            ]
        )
        return cls(weights @ profiles, *(weights @ moments).T)

    def sides(self, share: float) -> _Floats:
        """Return the side of the smallest square that holds ``share``, in positions."""
        held = self.profiles.cumsum(1) / self.profiles.sum(1, keepdims=True)
        first = (held >= share - 1e-6).argmax(1)
        side: _Floats = first + 1.0
        return side

    def radii(self) -> _Floats:
        """Return the second-moment radius, in positions."""
        radius: _Floats = np.sqrt(self.rows + self.columns)
        return radius

    def anisotropies(self) -> _Floats:
        """Return the ratio of the axes, from the eigenvalues of the second moments."""
        middle = (self.rows + self.columns) / 2
        half = np.sqrt(((self.rows - self.columns) / 2) ** 2 + self.mixed**2)
        smaller = np.maximum(middle - half, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio: _Floats = np.sqrt((middle + half) / smaller)
        return np.where(middle == 0, 1.0, ratio)

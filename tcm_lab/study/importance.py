"""Analysis of a search's axes: importance, main effects, interactions, and the search's progress.

Everything is computed from the records. Searches with few trials are not analysed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from math import isnan
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tcm_lab import reporting
from tcm_lab.metrics import METRICS
from tcm_lab.reporting import Column, Piece, PlotAxis, PlotImage, Row, Table, pareto_front
from tcm_lab.study.axes import Key, show
from tcm_lab.study.record import TrialRecord, baseline_of, objective_losses
from tcm_lab.study.space import Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEWEST_TRIALS = 8
_MAX_PAIRS = 6
_MOST_PARTS = 5  # of a range


def importance_pieces(records: Sequence[TrialRecord], space: Space) -> tuple[Piece, ...]:
    """Return plots and tables about the axes; none for fewer than eight complete trials."""
    firsts = [r for r in records if r.state == "complete" and r.seed == 0]
    if len(firsts) < _FEWEST_TRIALS:
        return ()
    metric = space.quality
    axis = PlotAxis(name=f"{metric.label}{' vs baseline' * metric.relative}", unit=metric.unit)
    pieces: list[Piece] = []

    def draw(plot: Figure, alt: str, caption: str) -> None:
        pieces.append(PlotImage(reporting.figure_svg(plot), alt, caption))

    if history := hypervolume_history(firsts, space):
        draw(
            reporting.history_plot(history),
            f"Hypervolume over {len(history)} trainings, as a share of the final one.",
            "Hypervolume of the front, as a share of the final one.",
        )
    if len(space.axes) > 1:
        pieces.append(importance_table(firsts, space))
    if effects := main_effects(firsts, space):
        draw(
            reporting.effects_plot(effects, axis),
            f"{metric.label} by the value of each axis.",
            "Main effects: each dot is a variant, the line is the mean.",
        )
    if pairs := interactions(firsts, space):
        draw(
            reporting.interactions_plot(pairs, axis),
            f"Mean {metric.label} by the values of two axes together.",
            "Interactions: parallel lines mean that two axes act independently.",
        )
    return tuple(pieces)


def importance_table(records: Sequence[TrialRecord], space: Space) -> Table:
    """Return how much of each objective's variance over the trials each axis explains.

    A constant objective has no shares.
    """
    baseline = baseline_of(records)
    rows = [objective_losses([record], [baseline], space) for record in records]
    losses = zip(*rows, strict=True)
    named = zip(space.objectives, losses, strict=True)
    shares = {name: _shares(records, each, space) for name, each in named}
    first = shares[space.objectives[0]]
    return Table(
        title="Importance of each axis",
        columns=(
            Column(key="axis", header="axis"),
            *(Column(key=name, header=METRICS[name].label, format=".2f") for name in shares),
        ),
        rows=tuple(
            Row(values={"axis": axis, **{name: of.get(axis) for name, of in shares.items()}})
            for axis in sorted(space.axes, key=lambda axis: -first.get(axis, 0.0))
        ),
        footer=(
            "Shares of the variance over the trials that the means by an axis's values explain, "
            "less what chance would (adjusted R²). What two axes explain together counts for both. "
            f"Ranges of more than {_MOST_PARTS} values are divided into parts; axes that act in "
            "only some trials are left out.",
        ),
    )


def _shares(
    records: Sequence[TrialRecord], losses: Sequence[float], space: Space
) -> dict[str, float]:
    """Return the share of each axis in the variance of losses.

    Axes that act only in some records, and records without a loss, are left out.
    """
    known = [pair for pair in zip(records, losses, strict=True) if not isnan(pair[1])]
    y = np.array([loss for _, loss in known])
    if len({*y.tolist()}) < 2:
        return {}
    shares = {}
    for name, axis in space.axes.items():
        if all(name in record.params for record in records):
            keys = [record.params[name] for record, _ in known]
            groups = _parts(keys) if axis.kind in ("integer", "float") else keys
            share = _explained(y, groups)
            if share is not None:
                shares[name] = share
    return shares


def _parts(keys: Sequence[Key]) -> list[Key]:
    """Return the part of a range in which each of its values lies, parts being equally full."""
    if len({*keys}) <= _MOST_PARTS:
        return [*keys]
    values = np.array(keys, dtype=float)
    edges = np.quantile(values, np.arange(1, _MOST_PARTS) / _MOST_PARTS)
    return [int(part) for part in np.searchsorted(edges, values, side="right")]


def _explained(y: NDArray[np.float64], groups: Sequence[Key]) -> float | None:
    """Return the share of the variance of (N,) values that the means of their groups explain.

    It is the adjusted R², 0 if negative; None if each value is a group of its own.
    """
    residual, freedom = _residual(y, [groups])
    if not freedom:
        return None
    total = float(((y - y.mean()) ** 2).sum())
    return max(0.0, 1 - residual / freedom * (len(y) - 1) / total)


def _residual(y: NDArray[np.float64], factors: Sequence[Sequence[Key]]) -> tuple[float, int]:
    """Return what the best sum of one effect per value of each factor leaves of (N,) values.

    Returns:
        The sum of squares of the residuals, and their degrees of freedom.
    """
    columns = [
        [each == value for each in factor] for factor in factors for value in dict.fromkeys(factor)
    ]
    design = np.array(columns, dtype=float).T
    fit, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    return float(((y - design @ fit) ** 2).sum()), len(y) - int(rank)


def main_effects(
    records: Sequence[TrialRecord], space: Space
) -> dict[str, list[tuple[str, list[float]]]]:
    """Return the quality metric of the records at each value of each axis."""
    valued = _valued(records, space)
    effects = {}
    for name in space.axes:
        by_key: dict[Key, list[float]] = {}
        for record, value in valued:
            if name in record.params:
                by_key.setdefault(record.params[name], []).append(value)
        if len(by_key) > 1:
            keys = _in_order(by_key, name, space)
            effects[name] = [(show(key), by_key[key]) for key in keys]
    return effects


def interactions(
    records: Sequence[TrialRecord], space: Space
) -> list[tuple[str, str, list[str], dict[str, list[tuple[str, float]]]]]:
    """Return, for pairs of axes, the mean quality at every pair of values that was trained.

    The pairs with the strongest interactions come first. Each has the names of both axes, the
    values of the first in order, and a line for each value of the second.
    """
    valued = _valued(records, space)
    found = []
    for a, b in combinations(space.axes, 2):
        cells: dict[tuple[Key, Key], list[float]] = {}
        for record, value in valued:
            if a in record.params and b in record.params:
                cells.setdefault((record.params[a], record.params[b]), []).append(value)
        means = {pair: fmean(values) for pair, values in cells.items()}
        keys_a, keys_b = (
            _in_order({pair[place] for pair in means}, axis, space)
            for place, axis in enumerate((a, b))
        )
        if len(keys_a) < 2 or len(keys_b) < 2 or len(means) < 2 * max(len(keys_a), len(keys_b)):
            continue
        lines = {
            show(kb): [(show(ka), means[ka, kb]) for ka in keys_a if (ka, kb) in means]
            for kb in keys_b
        }
        found.append((_unexplained(means), (a, b, [*map(show, keys_a)], lines)))
    found.sort(key=lambda entry: -entry[0])
    return [entry for _, entry in found[:_MAX_PAIRS]]


def _unexplained(means: dict[tuple[Key, Key], float]) -> float:
    """Return the variance of the cells that two main effects do not explain."""
    residual, freedom = _residual(np.array([*means.values()]), [*zip(*means, strict=True)])
    return residual / freedom if freedom else 0.0


def _valued(records: Sequence[TrialRecord], space: Space) -> list[tuple[TrialRecord, float]]:
    """Return the records that have the quality metric, with its displayed value."""
    metric, baseline = space.quality, baseline_of(records)
    values = [(record, metric.known(record, baseline)) for record in records]
    return [(record, value * metric.scale) for record, value in values if value is not None]


def _in_order(keys: Iterable[Key], name: str, space: Space) -> list[Key]:
    """Return keys in the order of the space; the numbers of a range ascend."""
    axis = space.axes[name]
    if axis.kind in ("integer", "float"):
        return sorted(keys, key=float)  # type: ignore[arg-type]  # a range holds numbers
    order = axis.grid()
    return sorted(keys, key=order.index)


def hypervolume_history(records: Sequence[TrialRecord], space: Space) -> list[tuple[int, float]]:
    """Return the hypervolume after each finished training, as a share of the final front's."""
    baseline = baseline_of(records)
    firsts = [r for r in records if r.state == "complete" and r.seed == 0 and r.feasible]
    firsts.sort(key=lambda record: record.number)
    rows = [objective_losses([record], [baseline], space) for record in firsts]
    rows = [row for row in rows if not any(map(isnan, row))]
    if len(rows) < 2:
        return []
    reference = reference_point(rows)
    front: list[list[float]] = []
    volumes: list[float] = []
    volume = 0.0
    for row in rows:
        if not any(_covers(point, row) for point in front):
            shared = [list(map(max, row, point)) for point in front]
            volume += max(hypervolume([row], reference) - hypervolume(shared, reference), 0.0)
            front = [*(point for point in front if not _covers(row, point)), row]
        volumes.append(volume)
    return [(n, each / volume) for n, each in enumerate(volumes, 1)]


def _covers(point: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(point, other, strict=True))


def reference_point(points: Sequence[Sequence[float]]) -> list[float]:
    """Return a reference point, a tenth of each objective's range beyond its worst value."""
    columns = list(zip(*points, strict=True))
    return [max(column) + 0.1 * ((max(column) - min(column)) or 1.0) for column in columns]


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Return the volume between ``reference`` and the points that dominate it.

    Slices along the last objective (While et al. 2006, "A faster algorithm for calculating
    hypervolume"): a slice's volume is its thickness times the hypervolume of the other objectives.

    Args:
        points: one row per point, all objectives to be minimised.
        reference: the corner that bounds the volume; points beyond it add nothing.
    """
    inside = {tuple(p) for p in points if all(x < r for x, r in zip(p, reference, strict=True))}
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(p[0] for p in inside)
    if len(reference) == 2:
        return _area(inside, (reference[0], reference[1]))
    rows = [*inside]
    inside = {row for row, is_outer in zip(rows, pareto_front(rows), strict=True) if is_outer}
    levels = sorted({p[-1] for p in inside})
    total = 0.0
    for low, high in zip(levels, [*levels[1:], reference[-1]], strict=True):
        below = [p[:-1] for p in inside if p[-1] <= low]
        total += hypervolume(below, reference[:-1]) * (high - low)
    return total


def _area(points: set[tuple[float, ...]], reference: tuple[float, float]) -> float:
    area, edge = 0.0, reference[1]
    for x, y in sorted(points):
        if y < edge:
            area += (reference[0] - x) * (edge - y)
            edge = y
    return area

"""What a search says about its axes: importance, main effects, interactions, and how it went.

All of it follows from the records; nothing is drawn from fewer trials than it can bear.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING

from tcm_lab.evaluation import lagrangian_percent
from tcm_lab.reporting import Column, Piece, PlotImage, Row, Table, figure_svg
from tcm_lab.reporting.plots.search import Effect, effects_plot, history_plot, interactions_plot
from tcm_lab.study.axes import Key, show
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.space import Space
from tcm_lab.study.summary import hypervolume_history, objective_row

if TYPE_CHECKING:
    from optuna import Study

_FEW = 8  # trials below which nothing is said about axes
_MAX_PAIRS = 6
_FIGURE_WORDS = {"lagrangian_percent": "Lagrangian cost", "bd_rate_percent": "BD-rate"}


def insight_pieces(records: Sequence[TrialRecord], space: Space) -> tuple[Piece, ...]:
    """Return plots and tables about the axes; none where there are too few trials to learn from."""
    firsts = [r for r in records if r.state == "complete" and r.seed == 0]
    if len(firsts) < _FEW:
        return ()
    pieces: list[Piece] = []
    history = hypervolume_history(firsts, space)
    if history:
        pieces.append(
            PlotImage(
                figure_svg(history_plot(history)),
                alt=f"Hypervolume over {len(history)} trainings, as a share of the final one.",
                caption="What the front dominates, as a share of what it dominates at the end.",
            )
        )
    if len(space.axes) > 1:
        pieces.append(importance_table(firsts, space))
    effects = main_effects(firsts, space)
    pieces.append(
        PlotImage(
            figure_svg(effects_plot(effects)),
            alt="Mean Lagrangian cost against the baseline by the value of each axis.",
            caption="Main effects: each dot is a variant, the line is their mean.",
        )
    )
    pairs = interactions(firsts, space)
    if pairs:
        pieces.append(
            PlotImage(
                figure_svg(interactions_plot(pairs)),
                alt="Mean Lagrangian cost by the values of two axes together.",
                caption="Interactions: parallel lines mean that two axes act independently.",
            )
        )
    return tuple(pieces)


def importance_table(records: Sequence[TrialRecord], space: Space) -> Table:
    """Return how much of each objective's variation among the best each axis explains.

    By PED-ANOVA (Watanabe et al. 2023), as Optuna computes it.
    """
    import optuna

    shares = {}
    for index, name in enumerate(space.objectives):
        study = _study_of(records, space, index)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        shares[name] = optuna.importance.get_param_importances(study, evaluator=evaluator)
    axes = list(space.axes)
    first = space.objectives[0]
    axes.sort(key=lambda axis: -shares[first].get(axis, 0.0))
    return Table(
        title="Importance of each axis",
        columns=(
            Column(key="axis", header="axis"),
            *(
                Column(key=name, header=_FIGURE_WORDS.get(name, name), format=".2f")
                for name in space.objectives
            ),
        ),
        rows=tuple(
            Row(values={"axis": axis, **{n: shares[n].get(axis) for n in space.objectives}})
            for axis in axes
        ),
        footer=("Shares by PED-ANOVA over the trials; axes that act only sometimes are left out.",),
    )


def _study_of(records: Sequence[TrialRecord], space: Space, index: int) -> Study:
    """Return a study in memory with one objective, from records alone."""
    import optuna

    study = optuna.create_study(direction="minimize")
    always = [n for n in space.axes if all(n in record.params for record in records)]
    for record in records:
        study.add_trial(
            optuna.create_trial(
                params={name: record.params[name] for name in always},
                distributions={name: space.axes[name].distribution() for name in always},
                value=objective_row(record, space)[index],
            )
        )
    return study


def main_effects(records: Sequence[TrialRecord], space: Space) -> list[Effect]:
    """Return the Lagrangian cost against the baseline by the value of each axis."""
    costs = _percents(records)
    effects = []
    for name in space.axes:
        by_key: dict[Key, list[float]] = {}
        for record, cost in zip(records, costs, strict=True):
            if name in record.params:
                by_key.setdefault(record.params[name], []).append(cost)
        if len(by_key) > 1:
            keys = _in_order(list(by_key), name, space)
            effects.append(Effect(name, [(show(key), by_key[key]) for key in keys]))
    return effects


def interactions(
    records: Sequence[TrialRecord], space: Space
) -> list[tuple[str, str, dict[str, list[tuple[str, float]]]]]:
    """Return, for pairs of axes, the mean cost at every pair of values that was trained.

    The pairs that leave most of the variation to their interaction come first.
    """
    costs = _percents(records)
    found = []
    for a, b in combinations(space.axes, 2):
        cells: dict[tuple[Key, Key], list[float]] = {}
        for record, cost in zip(records, costs, strict=True):
            if a in record.params and b in record.params:
                cells.setdefault((record.params[a], record.params[b]), []).append(cost)
        means = {pair: fmean(values) for pair, values in cells.items()}
        keys_a = _in_order(list(dict.fromkeys(pair[0] for pair in means)), a, space)
        keys_b = _in_order(list(dict.fromkeys(pair[1] for pair in means)), b, space)
        if len(keys_a) < 2 or len(keys_b) < 2 or len(means) < 2 * max(len(keys_a), len(keys_b)):
            continue
        lines = {
            show(kb): [(show(ka), means[ka, kb]) for ka in keys_a if (ka, kb) in means]
            for kb in keys_b
        }
        found.append((_unexplained(means), (a, b, lines)))
    found.sort(key=lambda entry: -entry[0])
    return [entry for _, entry in found[:_MAX_PAIRS]]


def _unexplained(means: dict[tuple[Key, Key], float]) -> float:
    """Return what two main effects together leave of the cells' variation."""
    overall = fmean(means.values())
    rows = {a: fmean(v for (x, _), v in means.items() if x == a) for a, _ in means}
    columns = {b: fmean(v for (_, y), v in means.items() if y == b) for _, b in means}
    return sum((v - rows[a] - columns[b] + overall) ** 2 for (a, b), v in means.items())


def _percents(records: Sequence[TrialRecord]) -> list[float]:
    baseline = next(record for record in records if record.is_baseline)
    return [lagrangian_percent(baseline.rd, r.rd, lambdas=r.lambdas) for r in records]


def _in_order(keys: list[Key], name: str, space: Space) -> list[Key]:
    """Return keys as the space lists them; numbers of a range ascend."""
    axis = space.axes[name]
    if not axis.discrete:
        return sorted(keys, key=float)  # type: ignore[arg-type]  # a range holds numbers
    order = axis.grid()
    return sorted(keys, key=order.index)

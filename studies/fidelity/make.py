"""How alike trainings of different length rank the paper's alternatives: a table and a plot.

Both follow from the records in this folder and in ``studies/paper-ablation``; nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tcm_lab.evaluation import lagrangian_cost
from tcm_lab.reporting import save_figure
from tcm_lab.reporting.plots import new_figure, palette, style
from tcm_lab.study.compare import ranking_table
from tcm_lab.study.report import write_tables
from tcm_lab.study.result import StudyResult, open_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parent
BUDGETS = ("1x", "3x", "10x")
_NAMED = 5  # variants in colour: the best and the worst of the longest training, and the baseline


def studies() -> dict[str, StudyResult]:
    """Return the three studies by their steps, the shortest first."""
    folders = (FOLDER / "1x", FOLDER / "3x", FOLDER.parent / "paper-ablation")
    found = {}
    for times, folder in zip(BUDGETS, folders, strict=True):
        study = open_result(folder)
        found[f"{times} ({study.space.budget.steps} steps)"] = study
    return found


def costs(study: StudyResult) -> dict[str, list[float]]:
    """Return the mean logarithm of the Lagrangian cost of each training, by variant."""
    found: dict[str, list[float]] = {}
    for record in study.records:
        cost = lagrangian_cost(record.evaluation, record.lambdas)
        found.setdefault(record.label, []).append(cost)
    return found


def ranks(study: StudyResult) -> dict[str, int]:
    """Return each variant's place by its mean over the seeds, 1 for the cheapest to code with."""
    means = {name: sum(each) / len(each) for name, each in costs(study).items()}
    return {name: place for place, name in enumerate(sorted(means, key=means.__getitem__), 1)}


def figure(found: Mapping[str, StudyResult]) -> Figure:
    """Return the place of each variant over the budget, the names beside the longest."""
    places = [ranks(study) for study in found.values()]
    longest = places[-1]
    order = sorted(longest, key=longest.__getitem__)
    (base,) = {r.label for r in next(iter(found.values())).records if r.is_baseline}
    colours = dict(zip([*order[:2], *order[-2:], base], palette(_NAMED), strict=False))
    with style():
        drawn, axes = new_figure(width=6.0, height=3.4)
        for name in order:
            colour = colours.get(name, "0.65")
            y = [each[name] for each in places]
            axes.plot(range(len(y)), y, "o-", color=colour, ms=4, lw=1.4, clip_on=False)
            axes.annotate(
                name.removeprefix("change "), (len(y) - 1, y[-1]), (8, 0),
                textcoords="offset points", va="center", fontsize=7,
                color=colour if name in colours else "0.3",
            )  # fmt: skip
        axes.invert_yaxis()
        axes.set_yticks([1, *range(5, len(order) + 1, 5)])
        axes.set_xticks(range(len(found)), labels=list(found))
        axes.set_xlim(-0.1, len(found) - 1)
        axes.set_ylabel("place by Lagrangian cost")
        for side in ("bottom", "right"):
            axes.spines[side].set_visible(False)
        return drawn


def main() -> None:
    """Write the table and the plot."""
    found = studies()
    for path in write_tables({"ranking": ranking_table(found)}, FOLDER):
        print(path)
    for path in save_figure(figure(found), FOLDER / "ranks"):
        print(path)


if __name__ == "__main__":
    main()

"""Compare rankings of `tcm-nano` variants by early training losses and by final coded bytes.

The table and the plot are made from the records of the studies with recipe ``study``; nothing is
trained.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from tcm_lab.evaluation import lagrangian_cost
from tcm_lab.reporting import Column, Row, Table, Value, save_figure
from tcm_lab.reporting.plots import AgreementPoint, PlotAxis, agreement_plot
from tcm_lab.stats import Interval
from tcm_lab.study.agreement import agreement, beginnings, percents
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.report import write_tables
from tcm_lab.study.result import open_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parent
SOURCES = ("paper-ablation", "split", "squeeze", "window", "slices", "successors")
STEPS = (50, 100, 200, 300, 400, 500)
SHOWN = 200  # step up to which the plot reads losses


@cache
def trainings() -> tuple[TrialRecord, ...]:
    """Return the complete training runs of all variants, each run once if studies share it."""
    records: dict[str, TrialRecord] = {}
    for name in SOURCES:
        for record in open_result(FOLDER.parent / name).records:
            records.setdefault(record.identity, record)
    return tuple(records.values())


def of_estimators() -> list[TrialRecord]:
    """Return the runs of the sixteen variants of the study of estimators, which differ more."""
    lines = (FOLDER.parent / "estimators" / "trainings.jsonl").read_text().splitlines()
    variants = {json.loads(line)["fingerprint"] for line in lines}
    return [record for record in trainings() if record.fingerprint in variants]


def noise_and_spread(records: Sequence[TrialRecord]) -> dict[str, float]:
    """Return noise between the seeds of a variant and spread of the variants' means, in percent."""
    others = {record.fingerprint for record in records if not record.is_baseline}
    costs = np.array([each for name, each in percents(records).items() if name in others])
    noise, spread = float(np.sqrt(costs.var(axis=1, ddof=1).mean())), costs.mean(axis=1).std(ddof=1)
    return {"noise": noise, "spread": float(spread), "ratio": noise / float(spread)}


def without_sharing(records: Sequence[TrialRecord]) -> dict[str, float]:
    """Return the same relative to a baseline of another seed.

    The variances between seeds of the variant and of the baseline then add up.
    """
    costs: dict[str, list[float]] = {}
    for record in records:
        costs.setdefault(record.fingerprint, []).append(
            100 * lagrangian_cost(record.evaluation, record.lambdas)
        )
    (base,) = {record.fingerprint for record in records if record.is_baseline}
    own = {name: np.var(each, ddof=1) for name, each in costs.items()}
    noise = float(np.sqrt(np.mean([own[name] for name in own if name != base]) + own[base]))
    spread = noise_and_spread(records)["spread"]
    return {"noise": noise, "spread": spread, "ratio": noise / spread}


def table() -> Table:
    """Return a table with a row per length of training, and complete training by bytes last."""
    truth = trainings()
    rows = []
    for steps in STEPS:
        early = beginnings(truth, steps)
        result = agreement(early, truth)
        values: dict[str, Value] = {
            "measure": f"training losses up to step {steps}",
            "tau": result.rank.tau,
            "between": result.rank.ceilings[0],
            "regret": result.regret,
            "error": result.error_percent,
        }
        rows.append(Row(values=values | noise_and_spread(early)))
    end: dict[str, Value] = {
        "measure": "written bytes at the end",
        "between": result.rank.ceilings[1],
    }
    unpaired: dict[str, Value] = {"measure": "… against a baseline of another seed"}
    rows.append(Row(values=end | noise_and_spread(truth)))
    rows.append(Row(values=unpaired | without_sharing(truth)))
    some = of_estimators()
    distinct: dict[str, Value] = {
        "measure": "… of the sixteen variants of estimators",
        "between": agreement(some, some).rank.ceilings[1],
    }
    rows.append(Row(values=distinct | noise_and_spread(some)))
    return Table(
        title="How early training losses rank variants",
        columns=(
            Column(key="measure", header="ranked by"),
            Column(key="tau", header="τ with the end", format="+.2f"),
            Column(key="between", header="τ between seeds", format="+.2f"),
            Column(key="regret", header="regret", unit="%", format=".2f"),
            Column(key="error", header="error", unit="%", format=".2f"),
            Column(key="noise", header="noise", unit="%", format=".2f"),
            Column(key="spread", header="spread", unit="%", format=".2f"),
            Column(key="ratio", header="noise to spread", format=".2f"),
        ),
        rows=tuple(rows),
        footer=(
            f"{result.rank.variants} variants, {result.rank.seeds[0]} seeds each; costs relative "
            "to the baseline. τ: Kendall's τ between means over the seeds, with its 95 % "
            "bootstrap interval over variants and seeds; τ between seeds: mean τ between the "
            "rankings by two seeds.",
            "Regret: final cost of the variant ranked first, minus that of the best. Error: root "
            "mean square of the difference from the final cost. Noise: standard deviation of a "
            "variant's cost between seeds. Spread: standard deviation of the variants' means.",
        ),
    )


def figure() -> Figure:
    """Plot the cost of every variant by early losses against its cost by written bytes."""
    truth = trainings()
    early = beginnings(truth, SHOWN)
    labels = {record.fingerprint: record.label for record in truth}
    sides = [(percents(records), noise_and_spread(records)["noise"]) for records in (early, truth)]
    points = [
        AgreementPoint(
            label=labels[name],
            predicted=_over_seeds(sides[0][0][name], sides[0][1]),
            trained=_over_seeds(sides[1][0][name], sides[1][1]),
        )
        for name in labels
    ]
    cost = "Lagrangian cost vs baseline"
    return agreement_plot(
        points,
        PlotAxis(name=f"{cost}, by losses up to step {SHOWN}", unit="%"),
        PlotAxis(name=f"{cost}, by written bytes", unit="%"),
    )


def _over_seeds(costs: Sequence[float], noise: float) -> Interval:
    """Return the mean with its 95 % interval for this number of seeds."""
    mean, half = fmean(costs), 1.96 * noise / math.sqrt(len(costs))
    return Interval(value=mean, low=mean - half, high=mean + half)


def tables() -> dict[str, Table]:
    """Return the table of the page by file name."""
    return {"agreement": table()}


def main() -> None:
    """Write the table and the plot."""
    for path in write_tables(tables(), FOLDER):
        print(path)
    for path in save_figure(figure(), FOLDER / "agreement"):
        print(path)


if __name__ == "__main__":
    main()

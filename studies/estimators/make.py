"""Compare the rankings by estimators and by early training losses with those by full training.

``python studies/estimators/make.py RUN`` copies the records that ``tcm-lab agreement`` wrote to the
folder RUN; without RUN, tables and plots are made from the records in this folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from tcm_lab._utils.files import write_atomically
from tcm_lab.reporting import Column, Row, Table, Value, save_figure
from tcm_lab.reporting.plots import AgreementPoint, PlotAxis, agreement_plot
from tcm_lab.stats import Interval
from tcm_lab.study.agreement import agreement, agreement_table, beginnings, percents
from tcm_lab.study.estimators.paired_loss import LossEstimator
from tcm_lab.study.folder import file_names
from tcm_lab.study.plan import TRUTH, load_plan, name_of
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.report import write_tables
from tcm_lab.study.result import open_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parent
PLAN = load_plan(FOLDER / "plan.yaml")
TRAININGS, ESTIMATES = FOLDER / "trainings.jsonl", FOLDER / "estimates.jsonl"
PLOTTED = ("paired-loss, steps 200", "linear-phase")
STEPS = (50, 100, 200, 400, 800, 1200, 1500)

Records = Sequence[TrialRecord]


def keep(run: Path) -> None:
    """Store the records of a run of the plan: estimators in one file, ground truth in another."""
    estimates: list[TrialRecord] = []
    folders = sorted(path.parent for path in run.glob("*/study.db"))
    if not folders:
        sys.exit(f"{run}: holds no study; name the folder that tcm-lab agreement wrote")
    for folder in folders:
        records = open_result(folder).searched
        if folder.name == TRUTH:
            write_atomically(TRAININGS, _lines(records))
        else:
            estimates += [_without_images(record) for record in records]
    write_atomically(ESTIMATES, _lines(estimates))


def _without_images(record: TrialRecord) -> TrialRecord:
    """Return the record without its evaluation if the estimator reads only the losses."""
    reads_losses = isinstance(record.estimator, LossEstimator)
    return record.model_copy(update={"rd": None}) if reads_losses else record


def _lines(records: Records) -> str:
    ordered = sorted(records, key=lambda r: (name_of(r.estimator), r.seed, r.number))
    return "".join(record.model_dump_json() + "\n" for record in ordered)


def read(path: Path) -> list[TrialRecord]:
    """Return the records of a file with one record per line, or none if there is no such file."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [TrialRecord.parse(json.loads(line)) for line in lines]


def estimated() -> Mapping[str, Records]:
    """Return the records of each estimator by name, in the order of the plan."""
    records = read(ESTIMATES)
    names = [name_of(estimator) for estimator in PLAN.estimators]
    by_name = {name: [r for r in records if name_of(r.estimator) == name] for name in names}
    return {name: own for name, own in by_name.items() if own}


def beginnings_table() -> Table:
    """Return a table with a row per step up to which the losses of the ground truth are read."""
    trained, rows = read(TRAININGS), []
    for steps in STEPS:
        result = agreement(beginnings(trained, steps), trained)
        values: dict[str, Value] = {
            "steps": steps, "tau": result.rank.tau, "regret": result.regret, "bias": result.bias,
            "error": result.error_percent, "share": 100 * steps / trained[0].steps,
        }  # fmt: skip
        rows.append(Row(values=values))
    return Table(
        title="How early training losses rank variants",
        columns=(
            Column(key="steps", header="losses up to step", format=",d"),
            Column(key="tau", header="τ with the end", format="+.2f"),
            Column(key="regret", header="regret", unit="%", format=".2f"),
            Column(key="bias", header="bias", unit="%", format="+.2f"),
            Column(key="error", header="error", unit="%", format=".2f"),
            Column(key="share", header="of the steps", unit="%", format=".3g"),
        ),
        rows=tuple(rows),
        footer=(
            f"Variants: {result.rank.variants}; seeds: {result.rank.seeds[1]}. Losses: mean "
            "training loss on the same crops over the last two fifths of the steps, relative to "
            f"the baseline's. The end: written bytes after {trained[0].steps:,} steps.",
        ),
    )


def figure(name: str) -> Figure:
    """Plot the cost of every variant by an estimator against its cost after full training."""
    trained = read(TRAININGS)
    sides = percents(estimated()[name]), percents(trained)
    labels = {record.fingerprint: record.label for record in trained}
    points = [
        AgreementPoint(
            label=label, predicted=_certain(sides[0][variant]), trained=_certain(sides[1][variant])
        )
        for variant, label in labels.items()
    ]
    cost = "Lagrangian cost vs baseline"
    return agreement_plot(
        points,
        PlotAxis(name=f"{cost}, by {name}", unit="%"),
        PlotAxis(name=f"{cost}, by {trained[0].steps:,} steps", unit="%"),
    )


def _certain(costs: Sequence[float]) -> Interval:
    mean = fmean(costs)
    return Interval(value=mean, low=mean, high=mean)


def tables() -> dict[str, Table]:
    """Return the tables of the page by file name."""
    return {
        "beginnings": beginnings_table(),
        "agreement": agreement_table(read(TRAININGS), estimated()),
    }


def main() -> None:
    """Store the records of a run, and write tables and plots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="folder written by tcm-lab agreement")
    run = parser.parse_args().run
    if run is not None:
        keep(run)
    for path in write_tables(tables(), FOLDER):
        print(path)
    for name, stem in zip(PLOTTED, file_names(PLOTTED), strict=True):
        for path in save_figure(figure(name), FOLDER / stem):
            print(path)


if __name__ == "__main__":
    main()

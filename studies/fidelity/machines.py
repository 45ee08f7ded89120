"""Compare training runs on one kind of machine with the same runs on another.

``machines.jsonl`` holds the costs of the runs of the study ``split`` on an earlier machine, whose
processor rounds differently. Versions, seeds and images were the same as for the records of
that study, and the code of the time gives those records on the later machine. Nothing is trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tcm_lab._utils import Frozen
from tcm_lab.evaluation import lagrangian_cost
from tcm_lab.reporting import Column, Row, Table, Value
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.report import write_tables
from tcm_lab.study.result import open_result

FOLDER = Path(__file__).parent
EARLIER = FOLDER / "machines.jsonl"


class Run(Frozen):
    """A training run on the earlier machine.

    Attributes:
        identity: identity of the run, the same on every machine.
        label: label of the variant.
        seed: seed of the run.
        log_cost: mean over the rates of ln(bpp + lambda * 255^2 * MSE), by written bytes.
    """

    identity: str
    label: str
    seed: int
    log_cost: float


def differences() -> Mapping[str, Sequence[float]]:
    """Return what changes from the earlier machine to the present one, in percent of cost."""
    now = {record.identity: record for record in open_result(FOLDER.parent / "split").records}
    earlier = [Run.parse(json.loads(line)) for line in EARLIER.read_text().splitlines()]
    moved = {run.identity: 100 * (_cost(now[run.identity]) - run.log_cost) for run in earlier}
    base = {run.seed: moved[run.identity] for run in earlier if now[run.identity].is_baseline}
    others = [run for run in earlier if not now[run.identity].is_baseline]
    paired = [moved[run.identity] - base[run.seed] for run in others]
    by_variant: dict[str, list[float]] = {}
    for run, difference in zip(others, paired, strict=True):
        by_variant.setdefault(run.label, []).append(difference)
    return {
        "cost of a run": [*moved.values()],
        "cost relative to a baseline from the same machine": paired,
        "mean of the latter over three seeds": [float(np.mean(own)) for own in by_variant.values()],
    }


def _cost(record: TrialRecord) -> float:
    return lagrangian_cost(record.evaluation, record.lambdas)


def table() -> Table:
    """Return a table of how far two kinds of machine are apart."""
    rows = []
    for what, values in differences().items():
        found = np.array(values)
        cells: dict[str, Value] = {
            "what": what,
            "values": len(values),
            "mean": float(found.mean()),
            "rms": float(np.sqrt((found**2).mean())),
            "largest": float(np.abs(found).max()),
        }
        rows.append(Row(values=cells))
    return Table(
        title="The same training runs on two kinds of machine",
        columns=(
            Column(key="what", header="difference between machines"),
            Column(key="values", header="values", format="d"),
            Column(key="mean", header="mean", unit="%", format="+.2f"),
            Column(key="rms", header="root mean square", unit="%", format=".2f"),
            Column(key="largest", header="largest", unit="%", format=".2f"),
        ),
        rows=tuple(rows),
        footer=(
            "Five variants and three seeds of the study split, trained twice with the same "
            "versions, seeds and images, on processors that round differently.",
        ),
    )


def tables() -> dict[str, Table]:
    """Return the table of the page by file name."""
    return {"machines": table()}


def main() -> None:
    """Write the table."""
    for path in write_tables(tables(), FOLDER):
        print(path)


if __name__ == "__main__":
    main()

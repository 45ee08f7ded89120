"""Measure how soon the search finds a known front: every variant is counted, none is trained.

The search uses the study engine's queue, sampler and rejection of repeats. Only the database is in
memory, and a formula replaces training.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tcm_lab._utils.files import write_atomically
from tcm_lab.complexity import measure_complexity
from tcm_lab.reporting import pareto_front, save_figure
from tcm_lab.reporting.plots import MARKERS, SOFT, new_figure, palette, style
from tcm_lab.study.context import StudyContext
from tcm_lab.study.importance import hypervolume
from tcm_lab.study.prepare import prepare
from tcm_lab.study.proposals import Proposals
from tcm_lab.study.queue import StudyTrial, TrialQueue
from tcm_lab.study.run import enqueue_missing
from tcm_lab.study.space import Space, load_space
from tcm_lab.study.variants import Variant, Variants

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna.trial import Trial

FOLDER = Path(__file__).parent
SEEDS = 10
GOAL = 0.95
# Random search needs more evaluations than TPE; both run past the goal.
EVALUATIONS = {"tpe": 225, "random": 900}
NAMES = {"tpe": "search (default sampler)", "random": "random"}

Point = tuple[float, float]
Histories = dict[str, list[list[float]]]
"""Share of the whole space's hypervolume after each evaluation, per seed, by sampler."""


def quality(variant: Variant) -> float:
    """Return a synthetic Lagrangian cost in percent; lower is better.

    Each stage has its own best split, which matters more with large windows. Window, squeeze and
    slices have diminishing returns. Every codec has a small random offset, as seeds do.
    """
    params = {name: float(str(key)) for name, key in variant.params.items()}
    reach = math.log2(params["window"] / 4)
    cost = 0.0
    for name, best, weight in (("outer", 0.25, 4), ("middle", 0.5, 6), ("inner", 0.75, 9)):
        split = params[f"split_{name}"]
        cost += weight * (1 + 0.3 * reach) * (split - best) ** 2 - 0.8 * reach * split
    cost -= 4 * (1 - 2 ** -math.log2(params["slices"]))
    cost -= 1.5 * math.log2(params["squeeze"] / 8) / math.log2(params["slices"] + 1)
    luck = int(hashlib.sha256(variant.fingerprint.encode()).hexdigest()[:8], 16) / 2**32
    return cost + 0.4 * (luck - 0.5)


class Known:
    """A space in which the objectives of every variant are known."""

    def __init__(self, space: Space) -> None:
        self.points: dict[str, Point] = {}
        variants = Variants(space)
        for params in variants.points():
            self.measure(variants.build(params), space)
        rows = list(self.points.values())
        self.reference = (max(x for x, _ in rows), max(y for _, y in rows))
        self.volume = hypervolume(rows, self.reference)

    def measure(self, variant: Variant, space: Space) -> Point:
        """Return the synthetic quality and the counted kMAC/px of a variant."""
        if variant.fingerprint not in self.points:
            counted = measure_complexity(variant.config, space.size).kmacs_per_px
            self.points[variant.fingerprint] = (quality(variant), counted)
        return self.points[variant.fingerprint]

    def shares(self, points: Iterable[Point]) -> list[float]:
        """Return the share of the whole hypervolume after each point."""
        best: list[Point] = []
        shares: list[float] = []
        for x, y in points:
            if not any(a <= x and b <= y for a, b in best):
                best = [(a, b) for a, b in best if not (x <= a and y <= b)] + [(x, y)]
            shares.append(hypervolume(best, self.reference) / self.volume)
        return shares

    def front(self) -> list[Point]:
        """Return the non-dominated points, sorted by quality."""
        rows = list(self.points.values())
        marks = pareto_front(rows)
        return sorted(row for row, best in zip(rows, marks, strict=True) if best)


class MemoryQueue(TrialQueue):
    """The engine's queue on Optuna's in-memory storage, for one worker that is never killed."""

    def __init__(self, objectives: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.owner = "this search"
        self._finished: dict[int, StudyTrial] = {}
        self._claimed: set[str] = set()
        self.study = optuna.create_study(directions=["minimize"] * objectives)

    def claim(self, trial: Trial, key: str) -> bool:
        """Claim a trial; there is no other worker to compete with."""
        self.note(trial, key=key)
        is_free = key not in self._claimed
        self._claimed.add(key)
        return is_free


def search(context: StudyContext, known: Known, evaluations: int) -> list[Point]:
    """Return the points that one search evaluates, in order."""
    space = context.space
    queue = MemoryQueue(len(space.objectives))
    enqueue_missing(queue, space, [context.variants.baseline()])
    proposals = Proposals(context, queue, worker=0)
    points: list[Point] = []
    while len(points) < evaluations:
        job = proposals.take(queue.trials())
        if job is not None:
            points.append(known.measure(job.variant, space))
            queue.study.tell(job.trial, points[-1])
    return points


def context_of(space: Space, sampler: str, seed: int, evaluations: int) -> StudyContext:
    """Return the context of one search."""
    searched = space.model_copy(update={"sampler": sampler, "seed": seed})
    return replace(prepare(searched, out=FOLDER), trials=evaluations)


def reached(shares: Sequence[float]) -> int | None:
    """Return the number of evaluations needed to reach the goal, or None if it was not reached."""
    return next((i for i, share in enumerate(shares, 1) if share >= GOAL), None)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def figure(histories: Histories, variants: int) -> Figure:
    """Plot median and quartiles of the share against the evaluations, with a mark at 95 %.

    The mark is at the median over the seeds of the evaluations that each seed needed.
    """
    with style():
        drawn, axes = new_figure(height=2.6)
        for index, (sampler, runs) in enumerate(histories.items()):
            color = palette(2)[index]
            columns = [quartiles(at) for at in zip(*runs, strict=True)]
            low, middle, high = ([100 * row[i] for row in columns] for i in range(3))
            x = range(1, len(columns) + 1)
            axes.fill_between(x, low, high, step="post", color=color, alpha=0.2, lw=0)
            axes.step(x, middle, where="post", color=color, label=NAMES[sampler])
            _, needed, _ = quartiles([reached(run) or math.inf for run in runs])
            if needed < len(columns):
                axes.plot(needed, 100 * GOAL, MARKERS[index], color=color, ms=4)
                axes.annotate(
                    f"{needed:g}", (needed, 100 * GOAL), (3, -10), textcoords="offset points",
                    color=color, fontsize=7,
                )  # fmt: skip
        axes.axhline(100 * GOAL, color=SOFT, lw=0.8, ls="--")
        axes.axvline(variants / 10, color=SOFT, lw=0.8, ls=":")
        axes.annotate(
            f"10 % of {variants:,}", (variants / 10, 0.03), (-3, 0),
            xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="right", color=SOFT, fontsize=6.5,
        )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlim(left=3)
        ticks = [5, 10, 20, 50, 100, 200, 500]
        axes.set_xticks(ticks, labels=map(str, ticks))
        axes.minorticks_off()
        axes.set_ylim(68, 101)
        axes.set_xlabel("variants evaluated")
        axes.set_ylabel("hypervolume (% of the whole space's)")
        axes.legend(loc="lower right", bbox_to_anchor=(0.82, 0.08))
        return drawn


def rows_of(histories: Histories) -> str:
    """Return a CSV of every increase of the share, which is constant in between."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["sampler", "seed", "evaluations", "hypervolume_share"])
    for sampler, runs in histories.items():
        for seed, shares in enumerate(runs):
            for i, share in enumerate(shares):
                if i in (0, len(shares) - 1) or share > shares[i - 1]:
                    writer.writerow([sampler, seed, i + 1, f"{share:.5f}"])
    return file.getvalue()


def read_rows(text: str) -> Histories:
    """Return the histories in a CSV written by `rows_of`."""
    histories: Histories = {}
    for row in csv.DictReader(text.splitlines()):
        runs = histories.setdefault(row["sampler"], [])
        if int(row["seed"]) == len(runs):
            runs.append([])
        run, at = runs[-1], int(row["evaluations"])
        run += [run[-1] if run else 0.0] * (at - len(run) - 1)
        run.append(float(row["hypervolume_share"]))
    return histories


def main() -> None:
    """Search, or read the records; write records and figure, and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draw", action="store_true", help="only redraw from records.csv")
    space = load_space(FOLDER / "space.yaml")
    records = FOLDER / "records.csv"
    if not parser.parse_args().draw:
        known = Known(space)
        histories: Histories = {}
        for sampler, evaluations in EVALUATIONS.items():
            for seed in range(SEEDS):
                context = context_of(space, sampler, seed, evaluations)
                shares = known.shares(search(context, known, evaluations))
                histories.setdefault(sampler, []).append(shares)
                print(f"{sampler} seed {seed}: {GOAL:.0%} after {reached(shares)}", flush=True)
        write_atomically(records, rows_of(histories))
        front = "".join(f"{x:.4f},{y:.4f}\n" for x, y in known.front())
        write_atomically(FOLDER / "front.csv", "lagrangian_percent,kmacs_per_px\n" + front)
    histories = read_rows(records.read_text())
    variants = Variants(space).count()
    assert variants is not None
    save_figure(figure(histories, variants), FOLDER / "hypervolume")
    for sampler, runs in histories.items():
        needed = [reached(run) or math.inf for run in runs]
        low, middle, high = quartiles(needed)
        print(f"{NAMES[sampler]}: {middle:g} evaluations ({low:g} to {high:g}) of {variants:,}")


if __name__ == "__main__":
    main()

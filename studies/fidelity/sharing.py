"""Measure the value of sharing each kind of random numbers between a variant and the baseline.

``python studies/fidelity/sharing.py run TRAIN EVAL`` runs every trial without a record, training on
the images in folder TRAIN and estimating the bits of the central crops of those in folder EVAL.
Ctrl-C loses only the current run. ``sharing.py table`` writes the table of the records.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tcm_lab import build, load_config
from tcm_lab._utils import Frozen
from tcm_lab._utils.files import write_atomically
from tcm_lab.data import CropSource, open_images
from tcm_lab.evaluation import evaluate_crops, lagrangian_cost
from tcm_lab.reporting import Column, Row, Table, Value
from tcm_lab.stats import bootstrap
from tcm_lab.study.report import write_tables
from tcm_lab.training import get_recipe, train

FOLDER = Path(__file__).parent
RECORDS = FOLDER / "sharing"
BASE, STEPS, SEEDS = "tcm-nano", 200, 6
PHASES = Path("runs") / "sharing"  # cache of the linear phases of baseline and variants
AWAY = 1000  # offset from a seed to the one that replaces it
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "convolution alone": {"g_*.split": 0},
    "one after the other": {"g_*.stages.*.block.type": "tcm-sequential"},
    "no SWAtten": {"entropy_model.attention": "none"},
}
ALL = "everything"


class Seeds(NamedTuple):
    """Seeds of the random numbers of one training run."""

    weights: int
    crops: int
    noise: int  # of the noise that replaces rounding, and of the rate of each step


KINDS = {
    "weights": "initial weights",
    "crops": "crops",
    "noise": "noise and rates of the steps",
}


class Trial(Frozen):
    """One training run and its result.

    Attributes:
        variant: its name; "baseline" for the base.
        seed: seed of all random numbers except those of ``differs``.
        differs: kind of random numbers with a different seed; "" for none.
        cpu_s: CPU seconds of training and evaluation.
        log_cost: mean over the rates of ln(bpp + lambda * 255^2 * MSE).
        train: fingerprint of the training images.
        evaluation: fingerprint of the evaluated central crops.
    """

    variant: str
    seed: int
    differs: str
    cpu_s: float
    log_cost: float
    train: str
    evaluation: str


def trials() -> Iterator[tuple[str, int, str]]:
    """Yield variant, seed and differing kind of every trial, all trials of one seed at a time."""
    for seed in range(SEEDS):
        for differs in ("", *KINDS):
            yield "baseline", seed, differs
        for name in VARIANTS:
            yield name, seed, ""


def run(train_on: Path, judge_on: Path) -> None:
    """Run every trial that has no record."""
    images, evaluation = open_images(train_on, "train"), open_images(judge_on, "eval")
    for name, seed, differs in trials():
        slug = re.sub(r"\W+", "-", f"{name} {differs} seed {seed}".lower())
        path = RECORDS / f"{slug}.json"
        if path.exists():
            continue
        began = time.process_time()
        seeds = Seeds(seed, seed, seed)
        if differs:
            seeds = seeds._replace(**{differs: seed + AWAY})
        config = load_config(BASE).override({"rate_levels": 4, **VARIANTS.get(name, {})})
        recipe = get_recipe("study").changed(steps=STEPS, seed=seeds.noise)
        recipe = recipe.suited(config.latent_channels, 4)
        codec = build(config, seed=seeds.weights)
        crops = CropSource(images, crop=recipe.crop, seed=seeds.crops)
        train(codec, recipe, crops, cache=PHASES)
        rd = evaluate_crops(codec, evaluation, recipe=recipe)
        trial = Trial(
            variant=name,
            seed=seed,
            differs=differs,
            cpu_s=time.process_time() - began,
            log_cost=lagrangian_cost(rd, recipe.lambdas),
            train=images.fingerprint,
            evaluation=rd.data_fingerprint,
        )
        write_atomically(path, trial.model_dump_json() + "\n")
        print(f"{slug}: {trial.log_cost:+.4f}, {trial.cpu_s:.0f} s", flush=True)


def read() -> list[Trial]:
    """Return all records."""
    return [Trial.parse(json.loads(path.read_text())) for path in sorted(RECORDS.glob("*.json"))]


Costs = Mapping[tuple[str, str], NDArray[np.float64]]
"""By variant and the kind that it does not share, the cost of each seed in percent, (SEEDS,)."""


def costs_of(trained: Iterable[Trial]) -> Costs:
    """Return the costs of all trials."""
    ordered = sorted(trained, key=lambda trial: trial.seed)
    kinds = {(trial.variant, trial.differs) for trial in ordered}
    return {
        kind: np.array([100 * t.log_cost for t in ordered if (t.variant, t.differs) == kind])
        for kind in kinds
    }


def variance(costs: Costs, seeds: NDArray[np.int64], differs: str) -> float:
    """Return the variance between seeds of a variant's cost relative to the baseline.

    Args:
        costs: the costs, in percent.
        seeds: the seeds to take.
        differs: the kind of random numbers that the baseline does not share; "" for none.
    """
    own = np.array([costs[name, ""] for name in VARIANTS])
    difference = (own - costs["baseline", differs])[:, seeds]
    return float(difference.var(axis=1, ddof=1).mean())


def variance_without_sharing(costs: Costs, seeds: NDArray[np.int64]) -> float:
    """Return the same if nothing is shared: the variances of both sides add up."""
    of_each = {name: costs[name, ""][seeds].var(ddof=1) for name in ("baseline", *VARIANTS)}
    return float(np.mean([of_each[name] for name in VARIANTS]) + of_each["baseline"])


def table(trained: Sequence[Trial]) -> Table:
    """Return a table with a row for sharing everything, one without each kind, and one for none."""
    costs = costs_of(trained)
    rows: dict[str, Callable[[NDArray[np.int64]], float]] = {
        f"{ALL} but {name}": partial(variance, costs, differs=kind) for kind, name in KINDS.items()
    }
    rows["nothing"] = partial(variance_without_sharing, costs)
    whole = np.arange(SEEDS)
    shared = variance(costs, whole, "")
    values: list[dict[str, Value]] = [{"shared": ALL, "noise": math.sqrt(shared), "seeds": 1.0}]
    for name, own in rows.items():
        ratio = bootstrap(
            lambda draw, own=own: own(draw["seeds"]) / variance(costs, draw["seeds"], ""),
            {"seeds": SEEDS},
        )
        values.append({"shared": name, "noise": math.sqrt(own(whole)), "seeds": ratio})
    return Table(
        title="What sharing random numbers is worth",
        columns=(
            Column(key="shared", header="variant and baseline share"),
            Column(key="noise", header="noise", unit="%", format=".2f"),
            Column(key="seeds", header="seeds for the same certainty", format=".1f"),
        ),
        rows=tuple(Row(values=each) for each in values),
        footer=(
            f"{len(VARIANTS)} variants of {BASE} ({', '.join(VARIANTS)}) after the linear phase "
            f"and {STEPS} steps of recipe study, {SEEDS} seeds each. Noise: standard deviation "
            "between seeds of the Lagrangian cost relative to the baseline, by estimated bits of "
            "the central crops of the evaluation images. Seeds: number needed for the certainty "
            "of one seed that shares everything, with its 95 % bootstrap interval over seeds.",
        ),
    )


def tables() -> dict[str, Table]:
    """Return the table of the page by file name."""
    return {"sharing": table(read())}


def main() -> None:
    """Run the missing trials if asked to, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    running = actions.add_parser("run", help="run every trial that has no record")
    running.add_argument("train", type=Path, help="folder of training images")
    running.add_argument("eval", type=Path, help="folder of evaluation images")
    actions.add_parser("table", help="write the table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.action == "run":
        run(args.train, args.eval)
    for path in write_tables(tables(), FOLDER):
        print(path)


if __name__ == "__main__":
    main()

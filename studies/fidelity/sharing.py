"""What it is worth that a variant and the baseline share their random numbers, kind by kind.

``python studies/fidelity/sharing.py run TRAIN EVAL`` trains what has no record yet on the images
in folder TRAIN, and estimates the bits of the middles of those in EVAL; Ctrl-C loses nothing but
the training under way. ``sharing.py table`` writes the table of the records.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tcm_lab import build, load_config
from tcm_lab._utils import Frozen
from tcm_lab._utils.files import write_atomically
from tcm_lab.data import CropSource, open_images
from tcm_lab.evaluation import evaluate_crops, lagrangian_cost
from tcm_lab.reporting import Column, Row, Table, Value
from tcm_lab.study.report import write_tables
from tcm_lab.training import get_recipe, train

FOLDER = Path(__file__).parent
RECORDS = FOLDER / "sharing"
BASE, STEPS, SEEDS = "tcm-nano", 200, 6
PHASES = Path("runs") / "sharing"  # linear phases, of baseline and variants alike
AWAY = 1000  # from a seed to the one that takes its place
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "convolution alone": {"g_*.split": 0},
    "one after the other": {"g_*.stages.*.block.type": "tcm-sequential"},
    "no SWAtten": {"entropy_model.attention": "none"},
}
ALL = "everything"


class Seeds(NamedTuple):
    """Where a training's random numbers come from."""

    weights: int
    crops: int
    noise: int  # in place of rounding, and the rates of the steps


KINDS = {
    "weights": "initial weights",
    "crops": "crops",
    "noise": "noise and rates of the steps",
}


class Trial(Frozen):
    """One training and what came of it.

    Attributes:
        variant: its name; "baseline" for the base.
        seed: of all but what differs.
        differs: the kind of random numbers that a further seed gave; "" for none.
        cpu_s: processor seconds of training and evaluation.
        log_cost: mean over the rates of ln(bpp + lambda * 255^2 * MSE).
        train: fingerprint of the training images.
        evaluation: fingerprint of the middles that were evaluated.
    """

    variant: str
    seed: int
    differs: str
    cpu_s: float
    log_cost: float
    train: str
    evaluation: str


def trials() -> Iterator[tuple[str, int, str]]:
    """Yield variant, seed and what differs, of every training: all of one seed before the next."""
    for seed in range(SEEDS):
        for differs in ("", *KINDS):
            yield "baseline", seed, differs
        for name in VARIANTS:
            yield name, seed, ""


def run(train_on: Path, judge_on: Path) -> None:
    """Train whatever has no record."""
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
    """Return the records."""
    return [Trial.parse(json.loads(path.read_text())) for path in sorted(RECORDS.glob("*.json"))]


def noise(found: Sequence[Trial], differs: str) -> float:
    """Return what a variant's cost against a baseline varies by from seed to seed, in percent.

    Args:
        found: the trials.
        differs: what the baseline's training does not share; "" for nothing.
    """
    costs = {(t.variant, t.seed, t.differs): 100 * t.log_cost for t in found}
    baseline = np.array([costs["baseline", seed, differs] for seed in range(SEEDS)])
    own = np.array([[costs[name, seed, ""] for seed in range(SEEDS)] for name in VARIANTS])
    return float(np.sqrt((own - baseline).var(axis=1, ddof=1).mean()))


def noise_of_strangers(found: Sequence[Trial]) -> float:
    """Return the same where nothing is shared: the variances of both sides add up."""
    costs: dict[str, list[float]] = {}
    for trial in found:
        if not trial.differs:
            costs.setdefault(trial.variant, []).append(100 * trial.log_cost)
    own = {name: np.var(each, ddof=1) for name, each in costs.items()}
    return float(np.sqrt(np.mean([own[name] for name in VARIANTS]) + own["baseline"]))


def table(found: Sequence[Trial]) -> Table:
    """Return a row for all that may be shared, and one without each."""
    shared = noise(found, "")
    rows: dict[str, float] = {ALL: shared}
    rows |= {f"{ALL} but {KINDS[kind]}": noise(found, kind) for kind in KINDS}
    rows["nothing"] = noise_of_strangers(found)
    values: list[dict[str, Value]] = [
        {"shared": name, "noise": value, "seeds": (value / shared) ** 2}
        for name, value in rows.items()
    ]
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
            f"and {STEPS} steps of recipe study, {SEEDS} seeds each. Noise: standard deviation of "
            "the Lagrangian cost against the baseline from seed to seed, by estimated bits of the "
            "middles of the evaluation images. Seeds: how many have the certainty of one that "
            "shares everything.",
        ),
    )


def main() -> None:
    """Train, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    running = actions.add_parser("run", help="train what has no record")
    running.add_argument("train", type=Path, help="folder of training images")
    running.add_argument("eval", type=Path, help="folder of evaluation images")
    actions.add_parser("table", help="write the table")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.action == "run":
        run(given.train, given.eval)
    for path in write_tables({"sharing": table(read())}, FOLDER):
        print(path)


if __name__ == "__main__":
    main()

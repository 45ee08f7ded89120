"""What each part of the start of training is worth: alone, together, and missing from the whole.

``python studies/start/make.py run FOLDER`` trains what has no record yet, one variant after
the other, on the images in FOLDER (without it: the embedded ones) and keeps a record of each in
``records``; Ctrl-C loses nothing but the training under way. ``make.py courses FOLDER`` follows
three of them to see how many steps each takes to a cost. ``make.py table`` writes the tables of the
records.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch

from tcm_lab import build, load_config
from tcm_lab._utils import Frozen
from tcm_lab._utils.files import write_atomically
from tcm_lab.data import CropSource, ImageSet, open_images
from tcm_lab.evaluation import (
    RdRecord,
    Seeds,
    evaluate,
    evaluate_crops,
    lagrangian_cost,
    lagrangian_interval,
)
from tcm_lab.reporting import Column, Row, Table
from tcm_lab.stats import Interval
from tcm_lab.study.report import write_tables
from tcm_lab.training import TrainingProgress, get_recipe, train

FOLDER = Path(__file__).parent
RECORDS, COURSES = FOLDER / "records", FOLDER / "courses"
PIXELS = 256 * 256  # seen in a step; two crops of 128 see half as many, and take twice the steps


class Change(NamedTuple):
    """One difference between how training started before and now."""

    codec: Mapping[str, Any] = {}
    recipe: Mapping[str, Any] = {}


#: How `tcm_lab.training` started when it had calibration and Adam alone, and what came since.
BEFORE = Change(
    {"shortcut": "none", "entropy_model.normalised": False},
    {
        "optimizer": "adam", "lr": 5e-4, "entropy_lr": None, "schedule": "drops",
        "lr_drops": (0.8,), "start": "calibrate", "linear_steps": 0, "batch": 2, "crop": 128,
    },
)  # fmt: skip
CHANGES = {
    "one crop of 256": Change({}, {"batch": 1, "crop": 256}),
    "cosine": Change({}, {"schedule": "cosine", "lr_drops": ()}),
    "Muon": Change({}, {"optimizer": "muon", "lr": 2e-3, "entropy_lr": 3e-4}),
    "linear start": Change({}, {"start": "linear"}),
    "normalised entropy model": Change({"entropy_model.normalised": True}),
    "staged shortcut": Change({"shortcut": "staged"}),
    "linear phase": Change({}, {"linear_steps": 150}),
}
#: What a change needs to mean anything.
NEEDS = {
    "normalised entropy model": ("linear start",),
    "staged shortcut": ("linear start",),
    "linear phase": ("linear start", "staged shortcut"),
}
EXTRA = {
    "all, patch shortcut": Change({"shortcut": "patch"}),
    "all, averaged weights": Change({}, {"ema": 0.99}),
}


#: What the variants stand beside in the table.
ANCHORS = ("before", "all")
#: What is followed to see how many steps it takes to a cost, and for how many at most.
FOLLOWED = {"before": 10_000, "before to normalised entropy model": 2_000, "all": 800}
REACHED_AFTER = (25, 50, 100, 200, 400, 800)  # steps of the last, whose costs the others must reach


class Trial(Frozen):
    """One training and what came of it.

    Attributes:
        variant: its name.
        base: the preset.
        steps: its length, in steps of 256 x 256 pixels.
        data: fingerprint of the training images.
        cpu_s: processor seconds of the training, its start included.
        rd: the evaluation, with the recipe and its seed.
    """

    variant: str
    base: str
    steps: int
    data: str
    cpu_s: float
    rd: RdRecord


class Course(Frozen):
    """What a training at a constant rate costs on its way.

    Attributes:
        variant: its name.
        base: the preset.
        data: fingerprint of the training images.
        steps: of 256 x 256 pixels, at which the middles of the evaluation images were evaluated.
        cpu_s: processor seconds up to there, the start and its linear phase included.
        log_cost: mean over the rates of ln(bpp + lambda * 255^2 * MSE), by estimated bits.
    """

    variant: str
    base: str
    data: str
    steps: tuple[float, ...]
    cpu_s: tuple[float, ...]
    log_cost: tuple[float, ...]

    def until(self, cost: float) -> tuple[float, float] | None:
        """Return after how many steps and seconds a cost is reached; None if it never is.

        Between evaluations the steps are interpolated in the logarithm.
        """
        best = np.minimum.accumulate(self.log_cost)
        later = int(np.searchsorted(-best, -cost))
        if later == len(best):
            return None
        if later == 0:
            return self.steps[0], self.cpu_s[0]
        share = float((best[later - 1] - cost) / (best[later - 1] - best[later]))
        ends = (
            (self.steps[later - 1], self.steps[later]),
            (self.cpu_s[later - 1], self.cpu_s[later]),
        )
        steps, cpu_s = (float(low * (high / low) ** share) for low, high in ends)
        return steps, cpu_s


class _EnoughError(Exception):
    """A course is followed to its end."""


def variants() -> dict[str, Change]:
    """Return every variant: one change after the other, each alone, and all without each.

    What two of them have in common is listed once, under the first name.
    """
    found = {"before": BEFORE}
    for count, name in enumerate(CHANGES, 1):
        together = f"before to {name}" if count < len(CHANGES) else "all"
        found[together] = _with(*list(CHANGES)[:count])
    for name in CHANGES:
        if name not in NEEDS:
            found[f"before and {name}"] = _with(name)
    found["before, linear start and staged shortcut"] = _with("linear start", "staged shortcut")
    for name in CHANGES:
        left_out = {name} | {other for other, needs in NEEDS.items() if name in needs}
        found[f"all but {name}"] = _with(*(other for other in CHANGES if other not in left_out))
    for name, change in EXTRA.items():
        found[name] = _merge(_with(*CHANGES), change)
    distinct: dict[str, Change] = {}
    for name, change in found.items():
        if change not in distinct.values():
            distinct[name] = change
    return distinct


def _with(*names: str) -> Change:
    whole = BEFORE
    for name in names:
        whole = _merge(whole, CHANGES[name])
    return whole


def _merge(first: Change, second: Change) -> Change:
    return Change({**first.codec, **second.codec}, {**first.recipe, **second.recipe})


def run(base: str, steps: int, seeds: int, data: str | None) -> None:
    """Train every variant that has no record, all variants of one seed before the next seed."""
    train_on, judge_on = open_images(data, purpose="train"), open_images(None, purpose="eval")
    folder = RECORDS / f"{base}-{steps}-{train_on.fingerprint}"
    for seed in range(seeds):
        for name, change in variants().items():
            path = folder / (re.sub(r"\W+", "-", f"{name} seed {seed}".lower()) + ".json")
            if path.exists():
                continue
            config = load_config(base).override({"rate_levels": 4, **change.codec})
            recipe = get_recipe("minute").changed(name="start", seed=seed, **change.recipe)
            updates = round(steps * PIXELS / (recipe.batch * recipe.crop**2))
            recipe = recipe.changed(steps=updates).suited(config.latent_channels, 4)
            codec = build(config, seed=seed)
            began = time.process_time()
            train(codec, recipe, CropSource(train_on, crop=recipe.crop, seed=seed))
            cpu_s = time.process_time() - began
            rd = evaluate(codec, judge_on, name=name, recipe=recipe)
            trial = Trial(
                variant=name, base=base, steps=steps, data=train_on.fingerprint, cpu_s=cpu_s, rd=rd
            )
            write_atomically(path, trial.model_dump_json() + "\n")
            cost = lagrangian_cost(rd, recipe.lambdas)
            print(f"{name}, seed {seed}: cost {cost:+.4f}, {cpu_s:.0f} s", flush=True)


def follow_all(base: str, data: str | None) -> None:
    """Follow what has no course yet."""
    train_on, judge_on = open_images(data, purpose="train"), open_images(None, purpose="eval")
    for name in FOLLOWED:
        slug = re.sub(r"\W+", "-", f"{base} {name} {train_on.fingerprint}")
        path = COURSES / f"{slug}.json"
        if not path.exists():
            course = follow(name, base, train_on, judge_on)
            write_atomically(path, course.model_dump_json() + "\n")


def follow(name: str, base: str, train_on: ImageSet, judge_on: ImageSet) -> Course:
    """Train a variant at a constant rate, and evaluate it on the way."""
    change, most = variants()[name], FOLLOWED[name]
    config = load_config(base).override({"rate_levels": 4, **change.codec})
    constant = {"schedule": "constant", "lr_drops": ()}
    recipe = get_recipe("minute").changed(**change.recipe | constant)
    share = recipe.batch * recipe.crop**2 / PIXELS  # of a step of 256 x 256 pixels
    recipe = recipe.changed(steps=round(1.3 * most / share))  # no cooldown before the last one
    recipe = recipe.suited(config.latent_channels, 4)
    codec = build(config, seed=0)
    points, began = list[tuple[float, float, float]](), time.process_time()

    def on_progress(progress: TrainingProgress) -> None:
        nonlocal began
        steps = progress.step * share
        if progress.phase or (points and steps < 1.2 * points[-1][0]):
            return
        spent_s = time.process_time() - began
        cost = lagrangian_cost(evaluate_crops(codec, judge_on), recipe.lambdas)
        points.append((steps, spent_s, cost))
        print(f"{name}, {steps:.0f} steps: cost {cost:+.4f}, {spent_s:.0f} s", flush=True)
        if steps >= most:
            raise _EnoughError
        codec.train()
        began = time.process_time() - spent_s

    with suppress(_EnoughError):
        crops = CropSource(train_on, crop=recipe.crop, seed=0)
        train(codec, recipe, crops, on_progress=on_progress)
    steps, cpu_s, costs = zip(*points, strict=True)
    data = train_on.fingerprint
    return Course(
        variant=name, base=base, data=data, steps=steps, cpu_s=cpu_s, log_cost=costs
    )  # fmt: skip


def steps_table(courses: Sequence[Course]) -> Table:
    """Return how many steps and seconds each course takes to costs of the last of `FOLLOWED`."""
    by_name = {course.variant: course for course in courses}
    fastest = by_name[[*FOLLOWED][-1]]
    costs = {min(course.log_cost) for course in courses}  # in the end
    costs |= {
        float(np.interp(math.log(after), np.log(fastest.steps), fastest.log_cost))
        for after in REACHED_AFTER
    }
    rows = []
    for cost in sorted(costs, reverse=True):
        values: dict[str, Any] = {"cost": cost}
        for name, course in by_name.items():
            if (found := course.until(cost)) is not None:
                values |= {f"steps {name}": found[0], f"cpu_s {name}": found[1]}
        rows.append(Row(values=values))
    return Table(
        title=f"Steps to a cost: {fastest.base}",
        columns=(
            Column(key="cost", header="cost", format="+.3f"),
            *(
                Column(key=f"{key} {name}", header=name, group=group, unit=unit, format=",.0f")
                for key, group, unit in (("steps", "steps", ""), ("cpu_s", "CPU time", "s"))
                for name in by_name
            ),
        ),
        rows=rows,
        footer=(
            "Cost: mean over four rates of ln(bpp + λ·255²·MSE), 0.01 of which is 1 %, by "
            "estimated bits of the middles of the embedded evaluation images. Rows: what each "
            "column reaches in the end, and the last one after "
            f"{', '.join(map(str, REACHED_AFTER))} steps.",
            "Steps of 256x256 pixels (two of 2 crops of 128 are one) at constant rates of "
            "learning; CPU time with the start and its linear phase. A dash: not within "
            f"{' and '.join(f'{most:,} steps ({name})' for name, most in FOLLOWED.items())}.",
        ),
    )


def table(trials: Sequence[Trial]) -> Table:
    """Return what each variant of one base, budget and set of images costs beside two others."""
    by_variant = {
        name: [trial for trial in trials if trial.variant == name]
        for name in variants()
        if any(trial.variant == name for trial in trials)
    }
    rows = []
    for name, own in by_variant.items():
        values: dict[str, Any] = {"variant": name, "seeds": len(own)}
        for anchor in ANCHORS:
            if anchor in by_variant and name != anchor:
                values[anchor] = _percent(by_variant[anchor], own)
        points = [point for trial in own for point in trial.rd.points]
        values["bpp"] = fmean(point.bpp for point in points)
        values["psnr_db"] = fmean(point.psnr_db for point in points)
        values["cpu_s"] = fmean(trial.cpu_s for trial in own)
        rows.append(Row(values=values))
    first = trials[0]
    assert first.rd.recipe is not None
    lambdas = ", ".join(f"{each:.4g}" for each in first.rd.recipe.lambdas)
    return Table(
        title=f"How training starts: {first.base}, {first.steps} steps of 256x256 pixels",
        columns=(
            Column(key="variant", header="variant"),
            *(
                Column(key=anchor, header=anchor, group="Lagrangian cost against", unit="%",
                       format="+.2f", best="low")
                for anchor in ANCHORS
            ),
            Column(key="bpp", header="mean rate", unit="bpp", format=".3f"),
            Column(key="psnr_db", header="mean PSNR", unit="dB", format=".2f"),
            Column(key="seeds", header="seeds", format="d"),
            Column(key="cpu_s", header="CPU time", unit="s", format=".0f"),
        ),
        rows=rows,
        footer=(
            f"4 rates of one training, λ = {lambdas} (λ·255²·MSE + bpp). Two crops of 128 see half "
            "the pixels of one of 256, and take twice the updates.",
            f"Trained on images {first.data}; rates are written bits, means over "
            f"{len(first.rd.points[0].images)} images (set {first.rd.data_fingerprint}).",
            "Intervals: 95 % of paired bootstrap resamples of images and seeds.",
            "CPU time is of one thread, beside other work.",
        ),
    )  # fmt: skip


def _percent(anchor: Sequence[Trial], own: Sequence[Trial]) -> Interval:
    lambdas = [point.lmbda for point in own[0].rd.points]
    anchors, records = [trial.rd for trial in anchor], [trial.rd for trial in own]
    paired = Seeds(paired=len(anchors) == len(records))
    return lagrangian_interval(anchors, records, lambdas=lambdas, seeds=paired)


def write() -> None:
    """Write the table of each folder of records."""
    tables = {}
    for folder in sorted(RECORDS.glob("*")):
        trials = [Trial.parse(json.loads(path.read_text())) for path in sorted(folder.iterdir())]
        tables[folder.name] = table(trials)
    followed = [Course.parse(json.loads(path.read_text())) for path in COURSES.glob("*.json")]
    for base, data in sorted({(course.base, course.data) for course in followed}):
        own = {c.variant: c for c in followed if (c.base, c.data) == (base, data)}
        if own.keys() == FOLLOWED.keys():
            tables[f"steps-{base}-{data}"] = steps_table([own[name] for name in FOLLOWED])
    for path in write_tables(tables, FOLDER):
        print(path)


def main() -> None:
    """Train, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("run", "courses", "table"))
    parser.add_argument("folder", nargs="?", help="images to train on; embedded ones by default")
    parser.add_argument("--base", default="tcm-nano")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.action == "run":
        run(given.base, given.steps, given.seeds, given.folder)
    elif given.action == "courses":
        follow_all(given.base, given.folder)
    write()


if __name__ == "__main__":
    main()

"""Measure the value of each part of the start of training: alone, combined, and left out.

``python studies/start/make.py run FOLDER`` trains every variant without a record, one after the
other, on the images in FOLDER (default: the embedded ones), and writes a record of each to
``records``; Ctrl-C loses only the current run. ``--base``, ``--steps`` and ``--variants`` choose
another codec, budget and part of the variants. ``make.py courses FOLDER`` measures for three
variants how many steps each needs to reach a cost. ``make.py table`` writes the tables of the
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
PIXELS = 256 * 256  # per step; two crops of 128 have half as many pixels and get twice the steps


class Change(NamedTuple):
    """One difference between the start of training before and now."""

    codec: Mapping[str, Any] = {}
    recipe: Mapping[str, Any] = {}


#: The start of training with calibration and Adam only, followed by the later changes.
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
#: Other changes that a change depends on.
NEEDS = {
    "normalised entropy model": ("linear start",),
    "staged shortcut": ("linear start",),
    "linear phase": ("linear start",),
}
EXTRA = {
    "all, patch shortcut": Change({"shortcut": "patch"}),
    "all, averaged weights": Change({}, {"ema": 0.99}),
}


#: The variants with which the table compares all others.
ANCHORS = ("before", "all")
#: Variants whose course is measured, and the largest number of steps of each.
FOLLOWED = {"before": 3_000, "all but staged shortcut": 800, "all": 800}
REACHED_AFTER = (25, 50, 100, 200, 400, 800)  # steps of the last variant; the rows are its costs


class Trial(Frozen):
    """One training run and its result.

    Attributes:
        variant: name of the variant.
        base: the preset.
        steps: length of the run, in steps of 256 x 256 pixels.
        data: fingerprint of the training images.
        cpu_s: CPU seconds of the run, including its start.
        rd: the evaluation, with the recipe and its seed.
    """

    variant: str
    base: str
    steps: int
    data: str
    cpu_s: float
    rd: RdRecord


class Course(Frozen):
    """Cost over the steps of a training run with a constant learning rate.

    Attributes:
        variant: name of the variant.
        base: the preset.
        data: fingerprint of the training images.
        steps: steps of 256 x 256 pixels after which the central crops of the evaluation images were
            evaluated.
        cpu_s: CPU seconds up to each evaluation, including the start and its linear phase.
        log_cost: mean over the rates of ln(bpp + lambda * 255^2 * MSE), by estimated bits.
    """

    variant: str
    base: str
    data: str
    steps: tuple[float, ...]
    cpu_s: tuple[float, ...]
    log_cost: tuple[float, ...]

    def until(self, cost: float) -> tuple[float, float] | None:
        """Return the steps and CPU seconds needed to reach a cost; None if it is never reached.

        Between evaluations, both are interpolated logarithmically.
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
    """The course is complete."""


def variants() -> dict[str, Change]:
    """Return all variants: the changes one after the other, each alone, and all without each.

    Identical variants are listed once, under the first name.
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


def run(base: str, steps: int, seeds: int, data: str | None, names: Sequence[str]) -> None:
    """Train each variant in ``names`` that has no record, finishing each seed before the next.

    A linear phase takes at most half as many steps.
    """
    train_on, judge_on = open_images(data, purpose="train"), open_images(None, purpose="eval")
    folder = RECORDS / f"{base}-{steps}-{train_on.fingerprint}"
    for seed in range(seeds):
        for name in names:
            change = variants()[name]
            path = folder / (re.sub(r"\W+", "-", f"{name} seed {seed}".lower()) + ".json")
            if path.exists():
                continue
            config = load_config(base).override({"rate_levels": 4, **change.codec})
            recipe = get_recipe("minute").changed(name="start", seed=seed, **change.recipe)
            updates = round(steps * PIXELS / (recipe.batch * recipe.crop**2))
            phase = min(recipe.linear_steps, steps // 2)
            recipe = recipe.changed(steps=updates, linear_steps=phase)
            recipe = recipe.suited(config.latent_channels, 4)
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
    """Measure every course that has no record."""
    train_on, judge_on = open_images(data, purpose="train"), open_images(None, purpose="eval")
    for name in FOLLOWED:
        slug = re.sub(r"\W+", "-", f"{base} {name} {train_on.fingerprint}")
        path = COURSES / f"{slug}.json"
        if not path.exists():
            course = follow(name, base, train_on, judge_on)
            write_atomically(path, course.model_dump_json() + "\n")


def follow(name: str, base: str, train_on: ImageSet, judge_on: ImageSet) -> Course:
    """Train a variant with a constant learning rate, evaluating it at intervals."""
    change, most = variants()[name], FOLLOWED[name]
    config = load_config(base).override({"rate_levels": 4, **change.codec})
    constant = {"schedule": "constant", "lr_drops": ()}
    recipe = get_recipe("minute").changed(**change.recipe | constant)
    share = recipe.batch * recipe.crop**2 / PIXELS  # of the pixels of a 256 x 256 step
    recipe = recipe.changed(steps=round(1.3 * most / share))  # cooldown after the last evaluation
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
    """Return the steps and CPU seconds each course needs to reach costs of the last `FOLLOWED`."""
    by_name = {course.variant: course for course in courses}
    fastest = by_name[[*FOLLOWED][-1]]
    costs = {min(course.log_cost) for course in courses}  # the lowest of each course
    costs |= {
        float(np.interp(math.log(after), np.log(fastest.steps), fastest.log_cost))
        for after in REACHED_AFTER
    }
    rows = []
    for cost in sorted(costs, reverse=True):
        values: dict[str, Any] = {"cost": cost}
        for name, course in by_name.items():
            if (reached := course.until(cost)) is not None:
                values |= {f"steps {name}": reached[0], f"cpu_s {name}": reached[1]}
        rows.append(Row(values=values))
    return Table(
        title=f"Steps to reach a cost: {fastest.base}",
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
            "Cost: mean over four rates of ln(bpp + λ·255²·MSE), where 0.01 is 1 %, by estimated "
            "bits of the central crops of the embedded evaluation images. Rows: the lowest cost of "
            "each column, and the costs of the last one after "
            f"{', '.join(map(str, REACHED_AFTER))} steps.",
            "Steps of 256x256 pixels (two steps of 2 crops of 128 count as one) with a constant "
            "learning rate; CPU time includes the start and its linear phase. A dash: not within "
            f"{', '.join(f'{most:,} steps ({name})' for name, most in FOLLOWED.items())}.",
        ),
    )


def table(trials: Sequence[Trial]) -> Table:
    """Compare the variants of one base, budget and image set with the two `ANCHORS`."""
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
            f"4 rates of one training run, λ = {lambdas} (λ·255²·MSE + bpp). Two crops of 128 have "
            "half the pixels of one of 256, and get twice the updates.",
            f"Trained on images {first.data}; rates are written bits, means over "
            f"{len(first.rd.points[0].images)} images (set {first.rd.data_fingerprint}).",
            "Intervals: 95 % of paired bootstrap resamples of the images, widened by the variation "
            "between seeds (Student's distribution).",
            "CPU time of one thread, measured while other work ran.",
        ),
    )  # fmt: skip


def _percent(anchor: Sequence[Trial], own: Sequence[Trial]) -> Interval:
    lambdas = [point.lmbda for point in own[0].rd.points]
    anchors, records = [trial.rd for trial in anchor], [trial.rd for trial in own]
    paired = Seeds(paired=len(anchors) == len(records))
    return lagrangian_interval(anchors, records, lambdas=lambdas, seeds=paired)


def tables() -> dict[str, Table]:
    """Return the table of each folder of records, and of each complete set of courses."""
    found = {}
    for folder in sorted(RECORDS.glob("*")):
        trials = [Trial.parse(json.loads(path.read_text())) for path in sorted(folder.iterdir())]
        found[folder.name] = table(trials)
    followed = [Course.parse(json.loads(path.read_text())) for path in COURSES.glob("*.json")]
    for base, data in sorted({(course.base, course.data) for course in followed}):
        own = {c.variant: c for c in followed if (c.base, c.data) == (base, data)}
        if own.keys() == FOLLOWED.keys():
            found[f"steps-{base}-{data}"] = steps_table([own[name] for name in FOLLOWED])
    return found


def main() -> None:
    """Train if asked to, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("run", "courses", "table"))
    parser.add_argument("folder", nargs="?", help="training images; default: the embedded ones")
    parser.add_argument("--base", default="tcm-nano")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=[*variants()], default=[*variants()])
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.action == "run":
        run(args.base, args.steps, args.seeds, args.folder, args.variants)
    elif args.action == "courses":
        follow_all(args.base, args.folder)
    for path in write_tables(tables(), FOLDER):
        print(path)


if __name__ == "__main__":
    main()

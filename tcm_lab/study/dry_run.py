"""Preview of a study: what it would train and what that would cost, without training."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tcm_lab import complexity, reporting
from tcm_lab.errors import ConfigError
from tcm_lab.metrics import METRICS
from tcm_lab.reporting import Column, Row, Table, Value
from tcm_lab.study.axes import Key
from tcm_lab.study.capacity import worker_count
from tcm_lab.study.context import StudyContext
from tcm_lab.study.estimators import Train
from tcm_lab.study.forecast import resolution_line, time_lines
from tcm_lab.study.resets import reset_fields
from tcm_lab.study.space import Space
from tcm_lab.study.tables import column_of
from tcm_lab.study.variants import Variant, Variants

_LOOK_S = 2.0
_FEW_POINTS = 2000
_ROWS = 60
_COSTS = ("parameters", "kmacs_per_px", "encode_kmacs_per_px", "decode_kmacs_per_px")
_TIMES = ("encode_ms", "encode_ratio", "decode_ms", "decode_ratio")
_CODING_S = 4.0  # per variant, in addition to the repetitions that an interval needs
_TRAINED, _REPEATED = "trained", "repeats a row above"


@dataclass(frozen=True)
class DryRun:
    """The result of a dry run.

    Attributes:
        table: one row per variant, with its cost and whether it will or may be trained.
        lines: the size of the space, the budget, and the estimated time if requested.
    """

    table: Table
    lines: Sequence[str]

    def text(self) -> str:
        """Return the result as text for a terminal."""
        return "\n".join([reporting.render(self.table, "markdown"), *self.lines])


@dataclass(frozen=True)
class _Survey:
    """The variants that were examined, each with its outcome, and whether these are all."""

    variants: Sequence[tuple[str, Variant | None, str]]
    all: bool

    @property
    def kept(self) -> list[Variant]:
        return [v for _, v, outcome in self.variants if v is not None and outcome == _TRAINED]


def dry_run(
    context: StudyContext,
    workers: int | None = None,
    *,
    timed: bool = False,
    coding: Mapping[str, Any] | None = None,
) -> DryRun:
    """List a space's variants with their costs, and the constraints that drop some of them.

    Nothing is trained or written. It takes a few seconds: of a large space, a part is examined.

    Args:
        context: the study.
        workers: number of processes that the study would use.
        timed: whether to estimate the time, too, from a few steps of a few variants, which takes
            a minute or two.
        coding: conditions for timing the encoding and decoding of every listed variant, in turns
            (fields of `TimingOptions`, and ``on_progress``); None to skip these timings.

    Raises:
        LabError: the study itself would fail with the same error.
    """
    space, variants, count = context.space, context.variants, worker_count(workers)
    survey = _survey(variants)
    kept = survey.kept
    if space.enumerated and survey.all and len(kept) < 2:
        raise variants.lone_baseline()
    about, trainings = "", len(kept)
    if not space.enumerated:
        trainings = min(context.trials, len(kept)) if survey.all else context.trials
    elif not survey.all:
        about, share = "about ", len(kept) / len(survey.variants)
        trainings = round((variants.count() or 0) * share)
    trainings *= space.budget.seeds if space.trains_every_seed else 1
    known = min(_known(context, kept), trainings)
    lines = [_size_line(variants, survey), _budget_line(context, trainings, known, about)]
    if space.estimator == Train() or space.budget.finalists:
        lines.append(resolution_line(context, variants.recipe()))
    lines += _reset_lines(survey, variants.space)
    if timed:
        lines += time_lines(context, kept, max(1, trainings - known), count)
    lines.append("Nothing was trained.")
    return DryRun(_table(survey, variants, coding), lines)


def _survey(variants: Variants) -> _Survey:
    """Examine all variants, or as many as a few seconds allow."""
    space, begun = variants.space, time.monotonic()
    count = variants.count()
    listed = space.enumerated or (count is not None and count <= _FEW_POINTS)
    rng, seen = random.Random(space.seed), set[str]()
    found: list[tuple[str, Variant | None, str]] = []

    def points() -> Iterator[dict[str, Key]]:
        yield variants.baseline().params
        yield from variants.points() if listed else iter(lambda: variants.draw(rng), None)

    for params in points():
        if found and time.monotonic() - begun > _LOOK_S:
            return _Survey(found, all=False)
        label = space.label(params) or "baseline"
        try:
            variant = variants.build(params)
        except ConfigError as error:
            found.append((label, None, f"cannot be built: {error}"))
            continue
        if variant.fingerprint in seen:
            if not variant.is_baseline:
                found.append((label, None, _REPEATED))
            continue
        seen.add(variant.fingerprint)
        over = {} if variant.is_baseline else variants.exceeded(variant)
        outcome = "; ".join(_excess(name, *pair) for name, pair in over.items()) or _TRAINED
        found.append((label, variant, outcome))
    return _Survey(found, all=True)


def _excess(name: str, value: float, bound: float) -> str:
    metric = METRICS[name]
    sign = ">" if metric.direction == "minimize" else "<"
    shown = format(value * metric.scale, metric.format)
    return f"dropped: {name} {shown} {sign} {bound * metric.scale:g}"


def _table(survey: _Survey, variants: Variants, coding: Mapping[str, Any] | None) -> Table:
    space = variants.space
    shown, (height, width) = survey.variants[:_ROWS], space.size
    footer = [f"MACs of one forward pass at {height}x{width}, per pixel before padding."]
    times: dict[str, Mapping[str, Value]] = {}
    timed: list[Column] = []
    if coding is not None:
        listed = [variant for _, variant, _ in shown if variant is not None]
        compared = complexity.compare_timing(
            [variant.config for variant in listed], space.size, **{"seconds": _CODING_S, **coding}
        )
        found = reporting.timing_table(compared.records, compared.ratios)
        timed = [column for column in found.columns if column.key in _TIMES]
        rows_by = zip(listed, found.rows, strict=True)
        times = {variant.fingerprint: row.within(timed).values for variant, row in rows_by}
        footer.append("Times are of random weights, measured in turns; use them only to compare.")
    judged = {*_COSTS, *space.constraints} - {column.key for column in timed}
    names = [name for name in METRICS if name in judged]
    columns = (
        Column(key="variant", header="variant"),
        *(column_of(name, best=None) for name in names),
        *timed,
        Column(key="outcome", header="outcome"),
    )
    rows = []
    kept = _TRAINED if space.estimator == Train() else "estimated"
    for label, variant, outcome in shown:
        values: dict[str, Value] = {"variant": label, "outcome": outcome}
        is_base = variant is not None and variant.is_baseline
        if outcome == _TRAINED:
            values["outcome"] = kept if space.enumerated or is_base else f"may be {kept}"
        if variant is not None:
            values |= {n: v for n, v in variants.cost(variant).metrics.items() if n in names}
            values |= times.get(variant.fingerprint, {})
        rows.append(Row(values=values, marks=("baseline",) if is_base else ()))
    if more := len(survey.variants) - len(rows):
        footer.append(f"{more:,} more variants are counted below but not listed.")
    title = f"Variants of space {space.name}"
    return Table(title=title, columns=columns, rows=rows, footer=footer)


def _size_line(variants: Variants, survey: _Survey) -> str:
    space, count = variants.space, variants.count()
    outcomes = Counter(outcome.split(":")[0] for _, _, outcome in survey.variants)
    bounds = ", ".join(f"{name} {_sign(name)} {b:g}" for name, b in space.constraints.items())
    kinds = {
        _TRAINED: f"within the constraints ({bounds})" if bounds else "can be built",
        "dropped": "outside",
        _REPEATED: "repeated",
        "cannot be built": "can't be built",
    }
    parts = ", ".join(
        f"{outcomes[outcome]:,} {kind}" for outcome, kind in kinds.items() if outcomes[outcome]
    )
    axes = "1 axis" if len(space.axes) == 1 else f"{len(space.axes)} axes"
    size = "infinitely many" if count is None else f"{count:,}"
    sample = "" if survey.all else f" Of {len(survey.variants):,} examined:"
    return (
        f"Space {space.name}: {size} combinations of {axes} "
        f"({', '.join(space.axes)}), mode {space.mode}, sampler {space.sampler}."
        f"{sample} {parts}."
    )


def _reset_lines(survey: _Survey, space: Space) -> list[str]:
    return [
        f"{label} also sets {', '.join(reset)}: a mapping replaces a whole field. To keep the "
        "rest, set single fields by dotted paths."
        for label, variant, _ in survey.variants
        if variant is not None and (reset := reset_fields(space, variant))
    ]


def _sign(name: str) -> str:
    return "<=" if METRICS[name].direction == "minimize" else ">="


def _known(context: StudyContext, variants: Sequence[Variant]) -> int:
    """Return how many trainings of these variants have a record that the study will reuse."""
    space = context.space
    seeds = range(space.budget.seeds if space.trains_every_seed else 1)
    tasks = (context.task(variant, seed, space.estimator) for variant in variants for seed in seeds)
    records = (context.find_record(task.directory.name, space.estimator) for task in tasks)
    return sum(record is not None for record in records)


def _budget_line(context: StudyContext, trainings: int, known: int, about: str) -> str:
    space, recipe = context.space, context.variants.recipe()
    budget, kind = space.budget, space.estimator
    at_most = "" if space.enumerated else "up to "
    verb = "is" if known == 1 else "are"
    kept = f"; {at_most}{known:,} {verb} already finished" if known else ""
    if kind != Train():
        steps = kind.recipe(recipe).steps
        each = f" of {steps:,} steps ({recipe.name})" if kind.trains else ""
        final = (
            f", then {budget.finalists} finalists and the baseline trained for {recipe.steps:,} "
            f"steps ({recipe.name}), {budget.seeds} seed{'s' if budget.seeds > 1 else ''} each"
        )
        return (
            f"Budget: {about}{trainings:,} variants by {kind.type}{each}"
            f"{final * bool(budget.finalists)}{kept}."
        )
    each = "" if budget.rate_levels else f" at each of {len(recipe.lambdas)} lambdas"
    more = (
        f", and of {budget.seeds - 1} further seeds of each variant on the front"
        if budget.seeds > 1 and space.mode != "ablation"
        else ""
    )
    each = f"{recipe.steps:,} steps ({recipe.name}){each}"
    return f"Budget: {about}{trainings:,} trainings of {each}{more}{kept}."

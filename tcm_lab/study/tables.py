"""The tables of a study, made from its summaries alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tcm_lab.errors import LabError
from tcm_lab.evaluation import MIN_OVERLAP, RdRecord, bd_rate_interval, rate_percents
from tcm_lab.metrics import ESTIMATED, METRICS
from tcm_lab.reporting import (
    WITHOUT_HEADERS,
    Column,
    Row,
    Table,
    Value,
    environment_lines,
    images_text,
    metric_column,
    rd_table,
)
from tcm_lab.study.estimators import Train
from tcm_lab.study.noise import FEWEST, Noise, noise_between
from tcm_lab.study.space import Space
from tcm_lab.study.summary import VariantSummary, noise_for

_COLUMNS = (
    "parameters", "kmacs_per_px", "encode_kmacs_per_px", "decode_kmacs_per_px",
    "peak_memory_bytes", "decode_peak_memory_bytes", "bpp", "psnr_db", "lagrangian_percent",
    "bd_rate_percent", "encode_ms", "decode_ms",
)  # fmt: skip
"""Metrics that a study's table shows in addition to those of the space."""
_BY_SEEDS = ", widened by the variation between the available seeds (Student's distribution)"
_OF_ONE_IMAGE = "not over images, since only one was coded"
_FEW = 3  # variants, the baseline included
_MOST_NAMED = 6
_CHANGES = ("parameters", "kmacs_per_px", "decode_ms")


def column_of(name: str, **changes: Any) -> Column:
    """Return the column of a metric; its best is marked if values are exact or have intervals."""
    metric = METRICS[name]
    sure = metric.relative or metric.needs in ("complexity", "memory")
    return metric_column(name, **({} if sure else {"best": None}) | changes)


def label_of(name: str, space: Space) -> str:
    """Return a metric's label, with the estimator that it is from unless that is training."""
    kind = space.estimator
    by = "" if name != ESTIMATED or kind == Train() else f" by {kind.type}"
    return f"{METRICS[name].label}{by}"


def trial_table(
    summaries: Sequence[VariantSummary], space: Space, *, axes_apart: bool = False
) -> Table:
    """Return one row per variant with its metrics.

    Rates and qualities are means over the trained rates; ``rate_table`` shows each. Rows are
    numbered if plots name the variants by number.

    Args:
        summaries: the variants.
        space: space of the study.
        axes_apart: whether numbered rows have a column per axis in place of one long label.
    """
    shown = _known_metrics(summaries, space)
    numbered, axes_apart = bool(summaries[0].number), axes_apart and bool(summaries[0].number)
    axes = [Column(key=f"axis {name}", header=name, group="axes") for name in space.axes]
    columns = (
        *([Column(key="number", header="#", format="d")] if numbered else []),
        *([] if axes_apart else [Column(key="variant", header="variant")]),
        *(
            column_of(name, header=label_of(name, space)) if name == ESTIMATED else column_of(name)
            for name in shown
        ),
        *([Column(key="group", header="group")] if any(s.group for s in summaries) else []),
        Column(key="steps", header="steps", group="training", format=",d"),
        Column(key="seeds", header="seeds", group="training", format="d"),
        *(axes if axes_apart else []),
    )
    rows = []
    for summary in summaries:
        values: dict[str, Value] = {
            "number": summary.number,
            "variant": summary.listed,
            "group": summary.group or None,
            "steps": summary.first.steps,
            "seeds": len(summary.records),
        }
        values |= {name: summary.value(name) for name in shown}
        values |= {f"axis {n}": v for n, v in space.cells(summary.first.params).items()}
        row = Row(values=values, marks=summary.marks, name=summary.name)
        rows.append(row.within(columns))
    return Table(
        title=space.title or f"Study {space.name}",
        columns=columns,
        rows=tuple(rows),
        footer=footer(summaries, space),
    )


def _known_metrics(summaries: Sequence[VariantSummary], space: Space) -> list[str]:
    """Return the metrics that have a column: those of other variants, or of a lone baseline."""
    judged = {*space.objectives, *space.constraints, *space.soft_constraints, *_COLUMNS}
    known = {name for s in summaries if not s.is_baseline for name in s.metrics}
    own = {name for name in summaries[0].metrics if not METRICS[name].relative}
    return [name for name in METRICS if name in judged & (known or own)]


def rate_table(summaries: Sequence[VariantSummary], *, by_number: bool = False) -> Table:
    """Return one row per variant, seed and rate.

    Args:
        summaries: the variants.
        by_number: whether numbered variants are called by their number.
    """
    names, records = dict[str, str](), list[RdRecord]()
    for summary in summaries:
        for record in (record for record in summary.records if record.rd is not None):
            seed = f", seed {record.seed}" if len(summary.records) > 1 else ""
            called = f"{summary.called if by_number else summary.listed}{seed}"
            names[called] = summary.name
            records.append(record.evaluation.model_copy(update={"name": called}))
    table = rd_table(records, title="Rates and qualities")
    rows = [
        row.model_copy(update={"name": names.get(str(row.values["model"]), "")})
        for row in table.rows
    ]
    return table.model_copy(update={"rows": tuple(rows)})


def ablation_table(summaries: Sequence[VariantSummary], space: Space) -> Table:
    """Return the effect of each single change on parameters, MACs, decoding time and rate."""
    before = summaries[0].metrics
    known = _known_metrics(summaries, space)
    compared = [name for name in known if METRICS[name].relative]
    judged = {*_CHANGES, *space.objectives} & before.keys()
    changed = [name for name in known if name in judged and not METRICS[name].relative]
    columns = (
        Column(key="change", header="change"),
        *(
            column_of(
                name,
                key=f"{name}_change",
                group="",
                header=f"Δ {METRICS[name].label}",
                format=f"+{METRICS[name].format.removeprefix('+')}",
                best=None,
            )
            for name in changed
        ),
        *(column_of(name, group="", header=f"Δ {label_of(name, space)}") for name in compared),
    )
    rows = []
    for summary in summaries:
        values: dict[str, Value] = {"change": "none" if summary.is_baseline else summary.name}
        values |= {f"{n}_change": v - before[n] for n, v in summary.metrics.items() if n in before}
        values |= {name: summary.value(name) for name in compared}
        row = Row(values=values, marks=summary.marks, name=summary.name)
        rows.append(row.within(columns))
    return Table(
        title=f"Ablation of {space.baseline.name}",
        columns=columns,
        rows=tuple(rows),
        footer=footer(summaries, space, has_letters=False),
    )


def anchor_table(
    summaries: Sequence[VariantSummary], anchor: RdRecord, *, by_number: bool = False
) -> Table:
    """Return a table of each variant's bits relative to JPEG at equal quality, rate by rate.

    Args:
        summaries: the variants.
        anchor: JPEG's evaluation.
        by_number: whether numbered variants are called by their number.

    Raises:
        LabError: JPEG's record is from an earlier version, without payload sizes.
    """
    complete = [summary for summary in summaries if summary.is_complete and summary.evaluations]
    levels = max((len(summary.evaluations[0].points) for summary in complete), default=0)
    columns = [Column(key="variant", header="variant")]
    columns += [
        Column(key=f"level{i}", header=f"rate {i + 1}", group="bits vs JPEG", unit="%",
               format="+.1f")
        for i in range(levels)
    ]  # fmt: skip
    columns.append(Column(key="bd", header="BD-rate vs JPEG", unit="%", format="+.1f"))
    rows, jpeg = [], anchor.curve(counted="payload")
    for summary in complete:
        called = summary.called if by_number else summary.listed
        values: dict[str, Value] = {"variant": called}
        with suppress(LabError):  # points at one rate, or curves that hardly overlap
            changes = rate_percents(jpeg, summary.payload_curve)
            values |= {f"level{i}": change for i, change in enumerate(changes)}
            values["bd"] = bd_rate_interval([anchor], summary.evaluations, counted="payload")
        rows.append(Row(values=values, name=summary.name))
    several = any(len(summary.records) > 1 for summary in complete)
    over = f"95 % of bootstrap resamples of the images{_BY_SEEDS * several}"
    if len(anchor.points[0].images) < FEWEST:
        over = _OF_ONE_IMAGE
    return Table(
        title="Against JPEG at equal PSNR",
        columns=tuple(columns),
        rows=tuple(rows),
        footer=(
            f"JPEG by Pillow, 4:2:0 and optimised Huffman tables, on the same images. "
            f"{WITHOUT_HEADERS} A dash: JPEG does not reach the quality, or the curves hardly "
            "overlap.",
            f"Intervals: {over}.",
        ),
    )


def _resampled(summaries: Sequence[VariantSummary]) -> str:
    """Describe what the intervals resample, and what else they include."""
    baseline, *others = summaries
    others = others or [baseline]
    found = {other.called: noise_for(other.records, baseline.records) for other in others}
    known = {noise_between(other.first, baseline.first) for other in others}
    measured = sorted((noise for noise in known if noise), key=lambda noise: noise.seed_sd)
    if len(measured) < len(known):
        several = any(len(summary.records) > 1 for summary in summaries)
        one = "the images; with one seed each, they cannot tell variants apart"
        return f"the images{_BY_SEEDS}" if several else one
    shown = "; ".join(_measured(noise, several=len(measured) > 1) for noise in measured)
    text = (
        "the images, plus the variation between seeds measured for recipe "
        f"{baseline.first.recipe.name} ({shown})"
    )
    if more := [label for label, noise in found.items() if noise is None]:
        names = " and ".join(more) if len(more) <= _MOST_NAMED else f"{len(more)} variants"
        text += f"; those of {names}, whose seeds vary more, are{_BY_SEEDS[1:]}"
    return text


def _measured(noise: Noise, *, several: bool) -> str:
    """Describe how much seeds vary and, if that depends on the changes, for which ones."""
    where = " where only g_a and g_s change" if noise.changes == "transforms" else " elsewhere"
    return (
        f"{noise.seed_sd:.2g} % of Lagrangian cost for one seed{where * several}; {noise.variants} "
        f"variants of {noise.base}, {noise.seeds} seeds each"
    )


def footer(
    summaries: Sequence[VariantSummary], space: Space, *, has_letters: bool = True
) -> tuple[str, ...]:
    """Return the conditions under which a study's values were measured.

    Args:
        summaries: the variants.
        space: space of the study.
        has_letters: whether the table shows the letters of the variants' groups.
    """
    first = summaries[0].first
    recipe, (height, width) = first.recipe, first.complexity.size
    lambdas = ", ".join(f"{value:.4g}" for value in first.lambdas)
    several = any(len(summary.records) > 1 for summary in summaries)
    each = "one rate-conditioned training per" if space.budget.rate_levels else "weights per λ and"
    changed = "".join(
        f", {name} {value}"
        for name, value in space.budget.changes.items()
        if name not in ("batch", "crop", "lambdas")  # in the line anyway
    )
    lines = [
        f"Base {space.baseline.name}. MACs of one forward pass at {height}x{width}, "
        "convention all, per pixel before padding.",
    ]
    if first.estimator.trains:
        lines.append(
            f"Trained with recipe {recipe.name}{changed}: {recipe.steps:,} steps of {recipe.batch} "
            f"crop{'s' if recipe.batch > 1 else ''} of {recipe.crop}x{recipe.crop}, λ = {lambdas} "
            f"(λ·255²·MSE + bpp), {each} {'seed' if several else 'row'}."
        )
    else:
        lines.append(f"Recipe {recipe.name}{changed}, λ = {lambdas} (λ·255²·MSE + bpp).")
    if first.estimator != Train():
        over = first.estimator.over
        seeds = " and seeds" * (several and "seeds" not in over)
        lines.append(
            f"The Lagrangian cost is that of the estimator {first.estimator.type}, which "
            f"{first.estimator.bias}; its intervals: 95 % over {over}{seeds}."
        )
    if (rd := first.rd) and "bpp" in _known_metrics(summaries, space):
        lines.append(f"Rates are written bits, means over {images_text(rd)}.")
    if any(summary.intervals for summary in summaries) and first.estimator == Train():
        if len(first.evaluation.points[0].images) < FEWEST:
            lines.append(f"Intervals: {_OF_ONE_IMAGE}; they cannot tell variants apart.")
        else:
            alone = " Each interval stands alone: about one in twenty excludes 0 by chance."
            lines.append(
                f"Intervals: 95 % of paired bootstrap resamples of {_resampled(summaries)}."
                f"{alone * (len(summaries) > _FEW)}"
            )
    if has_letters and any(summary.group for summary in summaries):
        lines.append(
            f"Variants that share a letter are not distinguishable by their {space.quality.label} "
            "(95 % interval of each pairwise difference)."
        )
    lines += _without_bd_rate(summaries)
    trainings = [run for s in summaries for record in s.records for run in record.trainings]
    places = [run.environment for run in trainings]
    if len(environment_lines(places)) > 1:
        lines.append(
            "Training ran under the different conditions below. They round differently, so runs "
            "with the same seed pair less exactly than on one kind of machine."
        )
    places += [rd.environment for summary in summaries for rd in summary.evaluations]
    return (*lines, *environment_lines(places))


def _without_bd_rate(summaries: Sequence[VariantSummary]) -> list[str]:
    """Explain why some evaluated variants have no BD-rate, if any lack one."""
    compared = [s for s in summaries if s.is_complete and s.evaluations and not s.is_baseline]
    has_one = ["bd_rate_percent" in summary.metrics for summary in compared]
    if all(has_one):
        return []
    what = "a dash marks those that do not" if any(has_one) else "no variant here has one"
    return [
        f"A BD-rate needs curves that rise and share {100 * MIN_OVERLAP:g} % of their range of "
        f"PSNR with the baseline's: {what}."
    ]

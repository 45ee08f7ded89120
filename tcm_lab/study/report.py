"""A study's results as files: tables, plots, one page, and the front's variants ready to train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tcm_lab import reporting
from tcm_lab._utils.files import write_atomically
from tcm_lab._utils.yaml import to_yaml
from tcm_lab.errors import LabError
from tcm_lab.evaluation import RdRecord, rate_percents
from tcm_lab.metrics import ESTIMATED, METRICS, formatted
from tcm_lab.reporting import Code, Format, Piece, PlotImage, Section, Table, count_text
from tcm_lab.stats import IncompleteInterval
from tcm_lab.study.budget import TIMES, budget_plot, budget_table, courses
from tcm_lab.study.decoded import comparisons
from tcm_lab.study.estimators import Train
from tcm_lab.study.finalists import (
    Finalists,
    finalist_finding,
    finalists_of,
    predicted_table,
    trained_of,
)
from tcm_lab.study.folder import RECORDS, TRIALS, file_names
from tcm_lab.study.importance import importance_pieces
from tcm_lab.study.plots import study_charts, study_plots
from tcm_lab.study.result import StudyResult, read_anchor
from tcm_lab.study.space import Space
from tcm_lab.study.summary import VariantSummary, noise_for, summarise
from tcm_lab.study.tables import ablation_table, anchor_table, rate_table, trial_table
from tcm_lab.training import RECIPES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tcm_lab.reporting.renderers.html import Spec

_SHORT = 0.01  # share of the paper's crops
_MOST_SHOWN = 60  # rows on a terminal
_LOWEST_RATES = 2  # to compare with JPEG; at higher ones, short trainings are far from converged
_ON_THE_FRONT = "# On the Pareto front of study"
_FORMATS: tuple[Format, ...] = ("markdown", "csv", "latex")
_CAPTIONS = {
    "rd": (
        "Rate-distortion curves; the table below holds their points.",
        "PSNR in RGB over written bits, means over the images.",
    ),
    "ablation": (
        "Effect of each change on quality and cost; the table below holds the values.",
        "Each change alone, with its 95 % interval.",
    ),
    "predicted": (
        "Predicted against trained cost of the finalists; the table below holds the values.",
        "Each point is a finalist with its 95 % intervals; on the line, both are equal.",
    ),
    "budget": (
        "Difference from the baseline over the steps; the table below holds the values.",
        "Lines: training loss on the same crops, with its 95 % band. Dots: evaluated cost. "
        f"Dashes: what a power law predicts at {TIMES[0]} times the steps.",
    ),
}
"""Alternative text and caption of each plot other than a scatter plot."""
_LACKING = {
    "seeds": (" over the images alone, from one seed", "one training each", "budget.seeds"),
    "images": (" over the seeds alone, from one image", "all on one image", "--eval-data"),
    "images and seeds": (
        " over neither images nor seeds",
        "one training each on one image",
        "--eval-data and budget.seeds",
    ),
}
"""By what an interval lacks: what it covers, what it compares, and the setting to raise."""


@dataclass(frozen=True)
class ReportSummary:
    """A study's findings, and the files of its report.

    Attributes:
        table: table for a terminal with one row per variant: if there are many, only the baseline
            and the front; for a search with finalists, the finalists.
        findings: one sentence each.
        failed: the reason for each variant that could not be trained, by label.
        page: the self-contained page.
        files: the files by kind: tables as markdown, CSV and LaTeX, plots as PNG and SVG, and a
            YAML file for each variant on the front.
    """

    table: Table
    findings: Sequence[str]
    failed: Mapping[str, str]
    page: Path
    files: Mapping[str, Sequence[Path]]

    def text(self) -> str:
        """Return the summary for a terminal."""
        lines = ["", reporting.render(self.table, "markdown"), *self.findings, ""]
        lines.append(f"Report  {self.page}")
        for kind, paths in self.files.items():
            if paths:
                names = ", ".join(path.name for path in paths)
                lines.append(f"{kind:<8}{paths[0].parent}/: {names}")
        lines += [f"FAILED  {label}: {reason}" for label, reason in self.failed.items()]
        return "\n".join(lines)


def write_report(result: StudyResult, command: str) -> ReportSummary:
    """Write a study's records, tables, plots, page and front into its folder.

    Args:
        result: the study.
        command: command line that writes the report again, shown on the page.

    Raises:
        LabError: the baseline is not trained yet, or the folder cannot be written.
    """
    space, out = result.space, result.out
    summaries = summarise(result.records, space)
    finalists = finalists_of(result, summaries)
    trained = trained_of(finalists, summaries)
    evaluated = any(summary.evaluations for summary in trained)
    anchor = read_anchor(result) if evaluated else None
    tables = study_tables(summaries, space, finalists)
    plots = study_plots(summaries, space, anchor, finalists)
    front = front_configs(trained, space)
    curves = courses(trained)
    sentences = findings(summaries, space, finalists) + space.estimator.findings(out / TRIALS)
    if finalists is not None:
        sentences.append(finalist_finding(finalists, space.estimator.type))
    if curves:
        tables["budget"], plots["budget"] = budget_table(curves), budget_plot(curves)
    if anchor is not None:
        tables["jpeg"] = anchor_table(trained, anchor)
        sentences += anchor_findings(trained, anchor)
    page = out / "report.html"
    lines = (f"{record.model_dump_json()}\n" for record in result.records)
    write_atomically(out / RECORDS, "".join(lines))
    _write_front(front, out / "front")
    shown = dict(tables)
    if summaries[0].number:  # by which the page refers to variants
        shown |= study_tables(summaries, space, finalists, by_number=True)
        if anchor is not None:
            shown["jpeg"] = anchor_table(trained, anchor, by_number=True)
    charts = study_charts(summaries, space, anchor, finalists)
    images = comparisons(result, trained)
    sections = _sections(result, summaries, shown, plots, charts, images, front, command)
    title, footer = space.title or f"Study {space.name}", tables["table"].footer
    write_atomically(page, reporting.render_report(title, sentences, sections, footer=footer))
    drawn = [reporting.save_figure(plot, out / stem) for stem, plot in plots.items()]
    files = {
        "Tables": write_tables(tables, out),
        "Plots": [path for paths in drawn for path in paths],
        "Front": [out / "front" / name for name in front],
    }
    brief = _brief(tables.get("finalists", tables["table"]))
    return ReportSummary(brief, sentences, result.failed, page, files)


def study_tables(
    summaries: Sequence[VariantSummary],
    space: Space,
    finalists: Finalists | None = None,
    *,
    by_number: bool = False,
) -> dict[str, Table]:
    """Return a study's tables by file name.

    Args:
        summaries: the variants.
        space: space of the study.
        finalists: finalists of a search, if any; the rates are then theirs.
        by_number: whether numbered variants are called by their number, not by what they change.
    """
    tables = {"table": trial_table(summaries, space, axes_apart=by_number)}
    if finalists is not None:
        tables["finalists"] = trial_table(finalists.trained, finalists.space, axes_apart=by_number)
        tables["predicted"] = predicted_table(finalists, space.estimator.type)
    trained = trained_of(finalists, summaries)
    if any(summary.evaluations for summary in trained):
        tables["rates"] = rate_table(trained, by_number=by_number)
    if space.mode == "ablation":
        tables["ablation"] = ablation_table(summaries, space)
    return tables


def _brief(table: Table) -> Table:
    """Return a table for a terminal; if it is long, without dominated variants."""
    if len(table.rows) <= _MOST_SHOWN:
        return table
    rows = tuple(
        row for row in table.rows if {"baseline", "pareto", "pareto-by-mean"} & {*row.marks}
    )
    left_out = len(table.rows) - len(rows)
    more = f"{left_out:,} further variants, dominated or stopped, are in the table's files."
    return table.model_copy(update={"rows": rows, "footer": (*table.footer, more)})


def _write_front(front: Mapping[str, str], folder: Path) -> None:
    """Write the front's variants, and delete those of an earlier report, but no other file."""
    for old in folder.glob("*.yaml"):
        if old.name not in front and _ON_THE_FRONT in old.read_text("utf-8", errors="replace"):
            old.unlink()
    for name, text in front.items():
        write_atomically(folder / name, text)


def write_tables(tables: Mapping[str, Table], folder: Path) -> list[Path]:
    """Write each table as markdown, CSV and LaTeX, and return the files.

    Raises:
        LabError: the folder cannot be written.
    """
    written = []
    for stem, table in tables.items():
        for form in _FORMATS:
            path = folder / f"{stem}{reporting.SUFFIXES[form][0]}"
            write_atomically(path, reporting.render(table, form))
            written.append(path)
    return written


def front_configs(summaries: Sequence[VariantSummary], space: Space) -> dict[str, str]:
    """Return the YAML of each variant on the front, as ``load_config`` reads it, by file name."""
    configs = {}
    front = [summary for summary in summaries if summary.on_front]
    names = file_names(f"variant-{s.number}" if s.number else s.label for s in front)
    for name, summary in zip(names, front, strict=True):
        values = ", ".join(f"{name} {summary.metrics[name]:.6g}" for name in space.objectives)
        head = f"# {summary.label}\n{_ON_THE_FRONT} {space.name}: {values}.\n"
        tree = summary.first.variant.model_dump(mode="json")
        configs[f"{name}.yaml"] = head + to_yaml(tree)
    return configs


def _sections(
    result: StudyResult,
    summaries: Sequence[VariantSummary],
    tables: Mapping[str, Table],
    plots: Mapping[str, Figure],
    charts: Mapping[str, Spec],
    decoded: Sequence[Piece],
    front: Mapping[str, str],
    command: str,
) -> list[Section]:
    space = result.space
    number = ", labelled by its number in the table" if summaries[0].number else ""
    names = ", ".join(summary.called for summary in summaries if summary.on_front)
    alt = f"Scatter plot of {count_text(len(summaries), 'variant')}; on the front: {names}."
    scatter = (alt, f"Each point is a variant{number}.")
    images = {
        stem: PlotImage(
            reporting.figure_svg(plot), *_CAPTIONS.get(stem, scatter), chart=charts.get(stem)
        )
        for stem, plot in plots.items()
    }
    pareto = [image for stem, image in images.items() if stem.startswith("pareto")]
    failed = [f"{label} could not be trained: {why}" for label, why in result.failed.items()]
    jpeg = [tables["jpeg"]] if "jpeg" in tables else []
    pieces: dict[str, Sequence[Piece]] = {
        "Variants": [*pareto, tables["table"], *failed],
        "Finalists, trained": [images["predicted"], tables["predicted"], tables["finalists"]]
        if "predicted" in images
        else [],
        "Ablation": [images["ablation"], tables["ablation"]] if "ablation" in images else [],
        "Rate and distortion": [images["rd"], *jpeg, tables["rates"]] if "rd" in images else [],
        "Original and decoded": decoded,
        "How the differences move with the budget": [images["budget"], tables["budget"]]
        if "budget" in images
        else [],
        "Importance of the axes": importance_pieces(result.searched, space),
        "The front, ready to train": [
            Code(text, title=name, folded=True) for name, text in front.items()
        ],
        "Made by": [Code(command), Code(space.to_yaml(), "The space", folded=True)],
    }
    return [Section(heading, tuple(below)) for heading, below in pieces.items() if below]


def findings(
    summaries: Sequence[VariantSummary], space: Space, finalists: Finalists | None = None
) -> list[str]:
    """Return a study's findings, in one or two sentences each.

    If there are finalists, the best is named among them, as they were trained.
    """
    complete = [summary for summary in summaries if summary.is_complete]
    stopped = len(summaries) - len(complete)
    early = f"; {stopped} more stopped early" if stopped else ""
    front = [summary for summary in summaries if summary.on_front]
    established = [s.called for s in front if s.is_established]
    objectives = " and ".join(METRICS[name].label for name in space.objectives)
    kind = space.estimator
    how = "trained and measured" if kind == Train() else f"estimated by {kind.type}"
    sentences = [
        f"{count_text(len(complete), 'variant')} of {space.baseline.name} {how}{early}. "
        f"Pareto-optimal for {objectives}: {'; '.join(established) or 'none'}."
    ]
    unsure = [s.called for s in front if not s.is_established]
    if unsure:
        sentences.append(
            "Pareto-optimal only by the mean, not distinguishable from the baseline: "
            f"{'; '.join(unsure)}."
        )
    if kind != Train():
        sentences.append(f"These are estimates: {kind.type} {kind.bias}.")
    trained = [summary for summary in trained_of(finalists, summaries) if summary.is_complete]
    return [*sentences, *_lowest_cost(trained, space), *_limits(summaries)]


def anchor_findings(summaries: Sequence[VariantSummary], anchor: RdRecord) -> list[str]:
    """Describe how the variants compare with JPEG at their lowest rates."""
    known: list[float] = []
    jpeg = anchor.curve(counted="payload")
    evaluated = [each for each in summaries if each.is_complete and each.evaluations]
    for summary in evaluated:
        with suppress(LabError):  # points at one rate
            changes = rate_percents(jpeg, summary.payload_curve)[:_LOWEST_RATES]
            known += [change for change in changes if change is not None]
    if not known:
        return []
    alone = len(evaluated) == 1 and evaluated[0].is_baseline
    whose, need = ("its", "the baseline needs") if alone else ("their", "the variants need")
    rates = min(_LOWEST_RATES, max(len(each.evaluations[0].points) for each in evaluated))
    lowest = f"{rates} lowest rates" if rates > 1 else "lowest rate"
    return [
        f"At {whose} {lowest} {need} {_fewer_or_more(min(known), max(known))} bits than JPEG at "
        "equal PSNR, without file headers on either side."
    ]


def _fewer_or_more(low: float, high: float) -> str:
    """Describe a range of changes in percent, such as ``29.7 to 44.1 % fewer``."""
    if low < 0 < high:
        return f"{-low:.1f} % fewer to {high:.1f} % more"
    ends = sorted((f"{abs(end):.1f}" for end in {low, high}), key=float)
    return f"{' to '.join(dict.fromkeys(ends))} % {'fewer' if low < 0 else 'more'}"


def _lowest_cost(complete: Sequence[VariantSummary], space: Space) -> list[str]:
    """Name the variant that codes best, if the data can tell, and if any was compared."""
    baseline, *others = complete
    if not any(ESTIMATED in s.intervals for s in others):
        return []
    lower = [s for s in others if ESTIMATED in s.intervals and s.metrics[ESTIMATED] < 0]
    better = [s for s in lower if s.intervals[ESTIMATED].excludes_zero]
    best = min(better or lower, key=lambda s: s.metrics[ESTIMATED], default=None)
    if best is None:
        return [f"No variant codes better than the baseline, {baseline.called}."]
    interval = best.intervals[ESTIMATED]
    lacks = interval.lacks if isinstance(interval, IncompleteInterval) else ""
    covered, compared, more = _LACKING.get(lacks, ("", "", ""))
    mean, low, high = (
        formatted(each, "+.2f") for each in (interval.value, interval.low, interval.high)
    )
    value = f"{mean} % of Lagrangian cost (95 % interval {low} to {high} %{covered})."
    takes = f"more {lacks} ({more})"
    if space.budget.finalists and best.first.estimator != Train():
        takes = "trainings of the finalists"
    if lacks:
        return [
            f"{best.called} has the lowest cost of {compared}, {value} Telling whether it codes "
            f"better than the baseline, {baseline.called}, takes {takes}."
        ]
    if better:
        return [f"{best.called} codes better than the baseline, {baseline.called}: {value}"]
    return [
        f"No variant is distinguishably better than the baseline, {baseline.called}: the lowest "
        f"mean is that of {best.called}, {value}"
    ]


def _limits(summaries: Sequence[VariantSummary]) -> list[str]:
    """Describe the limits of a short study, or of one with a single seed or image."""
    recipe = summaries[0].first.recipe
    published = RECIPES["published"]
    share = recipe.steps * recipe.batch / (published.steps * published.batch)
    limits = []
    if share < _SHORT:
        limits.append(
            f"{recipe.steps * recipe.batch:,} crops are {100 * share:.2g} % of those of the "
            "paper's training, and a full training may rank the variants differently"
        )
    one_seed = all(len(summary.records) == 1 for summary in summaries)
    baseline, *others = (summary.records for summary in summaries)
    unknown = any(noise_for(own, baseline) is None for own in others or [baseline])
    if one_seed and unknown:
        limits.append("with one seed each, the intervals leave out the variation between seeds")
    compared = [s.intervals[ESTIMATED] for s in summaries if ESTIMATED in s.intervals]
    if compared and all(isinstance(i, IncompleteInterval) and i.of_one_image for i in compared):
        limits.append("with one image, the intervals leave out the variation between images")
    return [f"Limits: {'; '.join(limits)}."] if limits else []

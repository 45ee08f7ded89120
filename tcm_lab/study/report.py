"""A study's results as files: tables, plots, one page, and the front's variants ready to train."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tcm_lab import reporting
from tcm_lab._utils.files import write_atomically
from tcm_lab.evaluation import RdRecord
from tcm_lab.metrics import METRICS
from tcm_lab.reporting import Code, PlotAxis, PlotImage, Section, Table
from tcm_lab.study.anchor import anchor_findings, anchor_table, with_anchor
from tcm_lab.study.cost import quality_of
from tcm_lab.study.importance import importance_pieces
from tcm_lab.study.result import RECORDS, StudyResult, records_text
from tcm_lab.study.space import Space
from tcm_lab.study.summary import VariantSummary, is_established, summarise
from tcm_lab.study.tables import are_numbered, plot_names, study_tables
from tcm_lab.training import RECIPES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_CURVES = 8
_SHORT = 0.01  # of the paper's steps
_QUALITY = "lagrangian_percent"


@dataclass(frozen=True)
class ReportSummary:
    """What a study found, and the files that hold it.

    Attributes:
        table: one row per variant.
        findings: one sentence each.
        failed: the reason by variant that could not be trained.
        page: the self-contained page.
        tables: each as markdown, CSV and LaTeX.
        plots: each as PNG and SVG.
        front: YAML of each variant on the front.
    """

    table: Table
    findings: tuple[str, ...]
    failed: Mapping[str, str]
    page: Path
    tables: tuple[Path, ...]
    plots: tuple[Path, ...]
    front: tuple[Path, ...]

    def text(self) -> str:
        """Return the summary for a terminal."""
        folder = self.page.parent
        files = {"Tables": (folder, self.tables), "Plots": (folder, self.plots)}
        files["Front"] = (folder / "front", self.front)
        lines = [
            "",
            reporting.render(self.table, "markdown"),
            *self.findings,
            "",
            f"Report  {self.page}",
        ]
        for name, (where, paths) in files.items():
            lines.append(f"{name:<8}{where}/: {', '.join(path.name for path in paths)}")
        lines += [f"FAILED  {label}: {reason}" for label, reason in self.failed.items()]
        return "\n".join(lines)


def write_report(result: StudyResult, command: str) -> ReportSummary:
    """Write a study's records, tables, plots, page and front into its folder.

    Args:
        result: the study.
        command: the command line that makes the report again, for the page.

    Raises:
        LabError: the baseline is not trained yet, or the folder cannot be written.
    """
    space, out = result.space, result.out
    summaries = summarise(result.records, space)
    result = with_anchor(result)
    tables = study_tables(summaries, space)
    plots = study_plots(summaries, space, result.anchor)
    front = front_configs(summaries, space)
    said = findings(summaries, space)
    if result.anchor is not None:
        tables["jpeg"] = anchor_table(summaries, result.anchor)
        said += anchor_findings(summaries, result.anchor)
    page = out / "report.html"
    write_atomically(out / RECORDS, records_text(result))
    for old in (out / "front").glob("*.yaml"):
        if old.name not in front:  # of an earlier report
            old.unlink()
    for name, text in front.items():
        write_atomically(out / "front" / name, text)
    sections = _sections(result, summaries, tables, plots, front, command)
    title = space.title or f"Study {space.name}"
    write_atomically(
        page, reporting.render_report(title, said, sections, footer=tables["table"].footer)
    )
    return ReportSummary(
        table=tables["table"],
        findings=tuple(said),
        failed=result.failed,
        page=page,
        tables=tuple(write_tables(tables, out)),
        plots=tuple(
            path for stem, plot in plots.items() for path in reporting.save_figure(plot, out / stem)
        ),
        front=tuple(out / "front" / name for name in front),
    )


def write_tables(tables: Mapping[str, Table], folder: Path) -> list[Path]:
    """Write each table as markdown, CSV and LaTeX, and return the files.

    Raises:
        LabError: the folder cannot be written.
    """
    written = []
    for stem, table in tables.items():
        texts = {
            "md": reporting.render(table, "markdown"),
            "csv": reporting.render(table, "csv"),
            "tex": reporting.render(table, "latex"),
        }
        for suffix, text in texts.items():
            path = folder / f"{stem}.{suffix}"
            write_atomically(path, text)
            written.append(path)
    return written


def study_plots(
    summaries: Sequence[VariantSummary], space: Space, anchor: RdRecord | None = None
) -> dict[str, Figure]:
    """Return a study's plots by the name of their files."""
    costs = _costs(space)
    names = {name: "pareto" if name == costs[0] else f"pareto-{name}" for name in costs}
    plots = {stem: _pareto_plot(summaries, space, name) for name, stem in names.items()}
    plots["rd"] = _rd_plot(summaries, space, anchor)
    if space.mode == "ablation":
        plots["ablation"] = _ablation_plot(summaries, space)
    return plots


def _costs(space: Space) -> list[str]:
    return [name for name in space.objectives if name != quality_of(space).name] or ["kmacs_per_px"]


def _plot_axis(name: str, prefix: str = "") -> PlotAxis:
    metric = METRICS[name]
    return PlotAxis(
        name=f"{prefix}{metric.label}{' vs baseline' if metric.relative else ''}",
        unit=metric.unit,
        lower_is_better=metric.direction == "minimize",
    )


def _shown(summary: VariantSummary, name: str) -> float:
    """Return a metric as plots show it."""
    return summary.metrics[name] * METRICS[name].scale


def _ends(summary: VariantSummary, name: str) -> tuple[float, float] | None:
    interval, scale = summary.intervals.get(name), METRICS[name].scale
    return None if interval is None else (interval.low * scale, interval.high * scale)


def _pareto_plot(summaries: Sequence[VariantSummary], space: Space, cost: str) -> Figure:
    quality = quality_of(space).name
    points = [
        reporting.ParetoPoint(
            x=_shown(summary, cost),
            y=_shown(summary, quality),
            label="" if summary.is_baseline and not summary.params else label,
            x_interval=_ends(summary, cost),
            y_interval=_ends(summary, quality),
            front=summary.on_front,
            baseline=summary.is_baseline,
            partial=not summary.is_complete,
        )
        for summary, label in zip(summaries, plot_names(summaries, space), strict=True)
        if cost in summary.metrics and quality in summary.metrics
    ]
    return reporting.pareto_plot(points, _plot_axis(cost), _plot_axis(quality))


def _ablation_plot(summaries: Sequence[VariantSummary], space: Space) -> Figure:
    """Draw each change's effect on quality and on the first cost among the objectives."""
    cost = _costs(space)[0]
    quality = quality_of(space).name if quality_of(space).relative else _QUALITY
    baseline, *others = zip(summaries, plot_names(summaries, space), strict=True)
    changes = [
        reporting.Change(
            label=label,
            quality=_shown(summary, quality),
            interval=interval,
            cost=_shown(summary, cost) - _shown(baseline[0], cost),
        )
        for summary, label in others
        if (interval := _ends(summary, quality)) is not None and cost in summary.metrics
    ]
    return reporting.ablation_plot(changes, _plot_axis(quality, "Δ "), _plot_axis(cost, "Δ "))


def _rd_plot(summaries: Sequence[VariantSummary], space: Space, anchor: RdRecord | None) -> Figure:
    """Draw the curves of the baseline and the front, or of all variants if they are few."""
    named = zip(summaries, plot_names(summaries, space), strict=True)
    shown = [(summary, label) for summary, label in named if summary.is_complete]
    if len(shown) > _MAX_CURVES:
        front = [(s, label) for s, label in shown if s.on_front and not s.is_baseline]
        shown = [shown[0], *front[: _MAX_CURVES - 1]]
    series = [
        reporting.series_of_records(
            [record.rd for record in summary.records],
            label=f"{label} (baseline)" if summary.is_baseline else label,
            role="baseline" if summary.is_baseline else "measured",
        )
        for summary, label in shown
    ]
    if anchor is not None:
        series.append(reporting.series_of_records([anchor], label="JPEG", role="anchor"))
    return reporting.rd_plot(series)


def front_configs(summaries: Sequence[VariantSummary], space: Space) -> dict[str, str]:
    """Return the YAML of each variant on the front, by file name; ``load_config`` reads it."""
    found = {}
    numbered = are_numbered(summaries, space)
    for number, summary in enumerate(summaries, 1):
        if summary.on_front:
            values = ", ".join(f"{name} {summary.metrics[name]:.6g}" for name in space.objectives)
            head = f"# {summary.label}\n# On the Pareto front of study {space.name}: {values}.\n"
            tree = summary.records[0].variant.model_dump(mode="json")
            text = yaml.safe_dump(tree, sort_keys=False, width=100, default_flow_style=None)
            name = f"variant-{number}" if numbered else summary.label
            slug = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
            found[f"{slug}.yaml"] = head + text
    return found


def _sections(
    result: StudyResult,
    summaries: Sequence[VariantSummary],
    tables: Mapping[str, Table],
    plots: Mapping[str, Figure],
    front: Mapping[str, str],
    command: str,
) -> list[Section]:
    space = result.space
    number = ", labelled by its number in the table" if are_numbered(summaries, space) else ""
    names = ", ".join(summary.label for summary in summaries if summary.on_front)
    alt = f"Scatter plot of {len(summaries)} variants; on the front: {names}."
    captions = {
        "rd": (
            "Rate-distortion curves; the table below holds their points.",
            "PSNR in RGB over written bits, means over the images.",
        ),
        "ablation": (
            "Effect of each change on quality and cost; the table below holds the values.",
            "Each change alone, with its 95 % interval.",
        ),
    }
    images = {
        stem: PlotImage(
            reporting.figure_svg(plot),
            *captions.get(stem, (alt, f"Each point is a variant{number}.")),
        )
        for stem, plot in plots.items()
    }
    pareto = [image for stem, image in images.items() if stem.startswith("pareto")]
    failed = [f"{label} could not be trained: {why}" for label, why in result.failed.items()]
    sections = [Section("Variants", (*pareto, tables["table"], *failed))]
    if "ablation" in tables:
        sections.append(Section("Ablation", (images["ablation"], tables["ablation"])))
    beside = (tables["jpeg"],) if "jpeg" in tables else ()
    sections.append(Section("Rate and distortion", (images["rd"], *beside, tables["rates"])))
    learned = importance_pieces(result.records, space)
    if learned:
        sections.append(Section("Importance of the axes", learned))
    codes = tuple(Code(text, title=name, folded=True) for name, text in front.items())
    sections.append(Section("The front, ready to train", codes))
    made = (Code(command), Code(space.to_yaml(), "The space", folded=True))
    return [*sections, Section("Made by", made)]


def findings(summaries: Sequence[VariantSummary], space: Space) -> list[str]:
    """Return what a study found, one sentence or two for each finding."""
    complete = [summary for summary in summaries if summary.is_complete]
    stopped = len(summaries) - len(complete)
    early = f"; {stopped} more stopped early" if stopped else ""
    front = [summary for summary in summaries if summary.on_front]
    established = [s.label for s in front if is_established(s, summaries[0], space)]
    objectives = " and ".join(METRICS[name].label for name in space.objectives)
    found = [
        f"{len(complete)} variants of {space.baseline.name} trained and measured{early}. "
        f"Pareto-optimal for {objectives}: {'; '.join(established) or 'none'}."
    ]
    unsure = [s.label for s in front if s.label not in established]
    if unsure:
        found.append(
            "Pareto-optimal by the mean alone, not distinguishable from the baseline: "
            f"{'; '.join(unsure)}."
        )
    return [*found, _lowest_cost(complete), *_limits(summaries)]


def _lowest_cost(complete: Sequence[VariantSummary]) -> str:
    """Say which variant codes best, if the data can tell."""
    baseline, *others = complete
    ranked = sorted(
        (s for s in others if _QUALITY in s.intervals), key=lambda s: s.metrics[_QUALITY]
    )
    better = [summary for summary in ranked if summary.intervals[_QUALITY].high < 0]
    best = next(iter(better or ranked), None)
    if best is None or (not better and best.metrics[_QUALITY] >= 0):
        return f"No variant codes better than the baseline, {baseline.label}."
    interval = best.intervals[_QUALITY]
    value = (
        f"{interval.value:+.2f} % of Lagrangian cost "
        f"(95 % interval {interval.low:+.2f} to {interval.high:+.2f} %"
    )
    seeds = min(len(best.records), len(baseline.records))
    covered = "" if seeds > 1 else " over the images alone, from one seed"
    if better:
        return f"{best.label} codes better than the baseline, {baseline.label}: {value}{covered})."
    return (
        f"No variant is distinguishable from the baseline, {baseline.label}, by being better: the "
        f"lowest mean is that of {best.label}, {value}{covered})."
    )


def _limits(summaries: Sequence[VariantSummary]) -> list[str]:
    """Say how far the results of a short study, or of one with a single seed, reach."""
    recipe = summaries[0].records[0].recipe
    share = recipe.steps / RECIPES["published"].steps
    limits = []
    if share < _SHORT:
        limits.append(
            f"{recipe.steps:,} steps are {100 * share:.2g} % of the paper's training, and a full "
            "training may rank the variants differently"
        )
    if all(len(summary.records) == 1 for summary in summaries):
        limits.append("with one seed each, the intervals leave out the variation between seeds")
    return [f"Limits: {'; '.join(limits)}."] if limits else []

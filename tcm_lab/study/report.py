"""A finished study as files: tables, plots, one page, and the chosen variants ready to train."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tcm_lab._utils.files import write_atomically
from tcm_lab.reporting import (
    Change,
    Code,
    ParetoPoint,
    PlotAxis,
    PlotImage,
    Section,
    Table,
    ablation_plot,
    figure_svg,
    pareto_plot,
    rd_plot,
    render,
    render_report,
    save_figure,
    series_of_records,
)
from tcm_lab.study.insight import insight_pieces
from tcm_lab.study.result import RECORDS, StudyResult, records_text
from tcm_lab.study.space import TRAINED, Space
from tcm_lab.study.summary import VariantSummary, summarise
from tcm_lab.study.tables import (
    FIGURES,
    ablation_table,
    are_numbered,
    plot_names,
    rate_table,
    trial_table,
)
from tcm_lab.training import RECIPES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_CURVES = 8
_SHORT = 0.01  # of the published steps
_NAMES = {
    "lagrangian_percent": "Lagrangian cost vs baseline",
    "bd_rate_percent": "BD-rate vs baseline",
    "kmacs_per_px": "forward pass",
    "encode_kmacs_per_px": "encoder",
    "decode_kmacs_per_px": "decoder",
    "parameters": "parameters",
    "peak_memory_bytes": "peak memory",
    "encode_ms": "encoding time",
    "decode_ms": "decoding time",
}


class ReportFiles:
    """Where a report was written.

    Attributes:
        page: the self-contained page.
        tables: markdown, CSV and LaTeX of the table of trials.
        plots: PNG and SVG of every plot.
        front: YAML of the variants on the front.
        summaries: what the report is made of.
    """

    def __init__(self, summaries: list[VariantSummary]) -> None:
        self.summaries = summaries
        self.page = Path()
        self.tables: list[Path] = []
        self.plots: list[Path] = []
        self.front: list[Path] = []


def write_report(result: StudyResult, command: str) -> ReportFiles:
    """Write everything that a study has to show into its folder.

    Args:
        result: the study.
        command: what makes it again.

    Raises:
        LabError: the baseline is not finished, or the folder can't be written.
    """
    space, out = result.space, result.out
    summaries = summarise(result.records, space)
    files = ReportFiles(summaries)
    write_atomically(out / RECORDS, records_text(result))
    tables = study_tables(summaries, space)
    files.tables = write_tables(tables, out)
    figures = {**pareto_figures(summaries, space), "rd": rd_figure(summaries, space)}
    if "ablation" in tables:
        figures["ablation"] = ablation_figure(summaries, space, tables["ablation"])
    for stem, figure in figures.items():
        files.plots += save_figure(figure, out / stem)
    chosen = front_configs(summaries, space)
    for old in (out / "front").glob("*.yaml"):
        if old.name not in chosen:
            old.unlink()  # of an earlier call, when the front was another
    for name, text in chosen.items():
        write_atomically(out / "front" / name, text)
        files.front.append(out / "front" / name)
    page = _page(result, summaries, tables, figures, chosen, command)
    files.page = out / "report.html"
    write_atomically(files.page, page)
    return files


def study_tables(summaries: Sequence[VariantSummary], space: Space) -> dict[str, Table]:
    """Return a study's tables by the name of their files."""
    tables = {"table": trial_table(summaries, space), "rates": rate_table(summaries)}
    if space.mode == "ablation":
        tables["ablation"] = ablation_table(summaries, space)
    return tables


def write_tables(tables: Mapping[str, Table], folder: Path) -> list[Path]:
    """Write each table as markdown, CSV and LaTeX, and return where.

    Raises:
        LabError: the folder can't be written.
    """
    written = []
    for stem, table in tables.items():
        texts = {
            "md": render(table, "markdown"),
            "csv": render(table, "csv"),
            "tex": render(table, "latex"),
        }
        for suffix, text in texts.items():
            path = folder / f"{stem}.{suffix}"
            write_atomically(path, text)
            written.append(path)
    return written


def pareto_figures(summaries: Sequence[VariantSummary], space: Space) -> dict[str, Figure]:
    """Return a plot for each objective that costs, over the quality that it buys."""
    quality, costs = _quality(space), _costs(space)
    found = {}
    for name in costs:
        column = FIGURES[name]
        points = [
            ParetoPoint(
                x=summary.figures[name] * column.scale,
                y=summary.figures[quality],
                label="" if summary.is_baseline and not summary.params else label,
                y_interval=_ends(summary, quality),
                front=summary.on_front,
                baseline=summary.is_baseline,
                partial=not summary.is_complete,
            )
            for summary, label in zip(summaries, plot_names(summaries, space), strict=True)
            if name in summary.figures and quality in summary.figures
        ]
        stem = "pareto" if name == costs[0] else f"pareto-{name}"
        x = PlotAxis(name=_NAMES[name], unit=column.unit)
        found[stem] = pareto_plot(points, x, PlotAxis(name=_NAMES[quality], unit="%"))
    return found


def ablation_figure(summaries: Sequence[VariantSummary], space: Space, table: Table) -> Figure:
    """Return what each change does to quality and to the first cost among the objectives."""
    quality, (cost, *_) = _quality(space), _costs(space)
    column, baseline = FIGURES[cost], summaries[0].figures
    changes = [
        Change(
            label=str(row.values["change"]),
            quality=summary.figures[quality],
            interval=interval,
            cost=(summary.figures[cost] - baseline[cost]) * column.scale,
        )
        for summary, row in zip(summaries, table.rows, strict=True)
        if (interval := _ends(summary, quality)) is not None and cost in summary.figures
    ]
    x = PlotAxis(name=f"Δ {_NAMES[cost]}", unit=column.unit)
    return ablation_plot(changes, PlotAxis(name=f"Δ {_NAMES[quality]}", unit="%"), x)


def _quality(space: Space) -> str:
    return next((name for name in space.objectives if name in TRAINED), "lagrangian_percent")


def _costs(space: Space) -> list[str]:
    return [name for name in space.objectives if name not in TRAINED] or ["kmacs_per_px"]


def _ends(summary: VariantSummary, name: str) -> tuple[float, float] | None:
    interval = summary.intervals.get(name)
    return None if interval is None else (interval.low, interval.high)


def rd_figure(summaries: Sequence[VariantSummary], space: Space) -> Figure:
    """Return the curves of the baseline and the front (of all, where they are few)."""
    named = zip(summaries, plot_names(summaries, space), strict=True)
    complete = [(summary, label) for summary, label in named if summary.is_complete]
    shown = complete
    if len(complete) > _MAX_CURVES:
        front = [(s, label) for s, label in complete if s.on_front and not s.is_baseline]
        shown = [complete[0], *front[: _MAX_CURVES - 1]]
    return rd_plot(
        [
            series_of_records(
                [record.rd for record in summary.records],
                label=f"{label} (baseline)" if summary.is_baseline else label,
                role="baseline" if summary.is_baseline else "measured",
            )
            for summary, label in shown
        ]
    )


def front_configs(summaries: Sequence[VariantSummary], space: Space) -> dict[str, str]:
    """Return the YAML of each variant on the front, by file name; ``load_config`` takes it."""
    found = {}
    numbered = are_numbered(summaries, space)
    for number, summary in enumerate(summaries, 1):
        if summary.on_front:
            config = summary.records[0].variant
            figures = ", ".join(f"{name} {summary.figures[name]:.6g}" for name in space.objectives)
            head = f"# {summary.label}\n# On the Pareto front of study {space.name}: {figures}.\n"
            tree = config.model_dump(mode="json")
            text = yaml.safe_dump(tree, sort_keys=False, width=100, default_flow_style=None)
            name = f"variant-{number}" if numbered else summary.label
            slug = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
            found[f"{slug}.yaml"] = head + text
    return found


def _page(
    result: StudyResult,
    summaries: list[VariantSummary],
    tables: dict[str, Table],
    figures: dict[str, Figure],
    chosen: dict[str, str],
    command: str,
) -> str:
    space = result.space
    numbers = ", by its number in the table" if are_numbered(summaries, space) else ""
    images = [
        PlotImage(
            figure_svg(figure),
            alt=_alt(summaries, space),
            caption=f"Each point is a variant{numbers}.",
        )
        for stem, figure in figures.items()
        if stem.startswith("pareto")
    ]
    curves = PlotImage(
        figure_svg(figures["rd"]),
        alt="Rate-distortion curves; the table below holds their points.",
        caption="PSNR in RGB over written bits, means over the images.",
    )
    failed = [f"{label} could not be trained: {why}" for label, why in result.failed.items()]
    sections = [
        Section("Variants", (*images, tables["table"], *failed)),
        *([_ablation_section(tables, figures)] if "ablation" in tables else []),
        Section("Rate and distortion", (curves, tables["rates"])),
    ]
    insight = insight_pieces(result.records, space)
    if insight:
        sections.append(Section("What the search learned", insight))
    front = tuple(Code(text, title=name, folded=True) for name, text in chosen.items())
    sections.append(Section("The front, ready to train", front))
    sections.append(Section("Made by", (Code(command), Code(space.to_yaml(), "The space", True))))
    title = space.title or f"Study {space.name}"
    return render_report(title, lead(summaries, space), sections, footer=tables["table"].footer)


def _ablation_section(tables: dict[str, Table], figures: dict[str, Figure]) -> Section:
    image = PlotImage(
        figure_svg(figures["ablation"]),
        alt="Each change's effect on quality and cost; the table below holds the figures.",
        caption="Each change alone, with its 95 % interval.",
    )
    return Section("Ablation", (image, tables["ablation"]))


def lead(summaries: Sequence[VariantSummary], space: Space) -> list[str]:
    """Return what was found, in words."""
    front = [summary for summary in summaries if summary.on_front]
    complete = [summary for summary in summaries if summary.is_complete]
    stopped = len(summaries) - len(complete)
    early = f", {stopped} more given up on the way" if stopped else ""
    names = "; ".join(summary.label for summary in front)
    found = [
        f"{len(complete)} variants of {space.base} trained and measured{early}. "
        f"Pareto-optimal for {' and '.join(_NAMES[n] for n in space.objectives)}: {names}."
    ]
    ranked = [s for s in complete if "lagrangian_percent" in s.figures]
    best = min(ranked, key=lambda s: s.figures["lagrangian_percent"])
    if best.is_baseline:
        found.append(f"No variant codes better than the baseline, {best.label}.")
    else:
        interval = best.intervals["lagrangian_percent"]
        found.append(
            f"{best.label} codes best: {interval.value:+.2f} % of Lagrangian cost against the "
            f"baseline (95 % interval {interval.low:+.2f} to {interval.high:+.2f} %)."
        )
    return [*found, *_reach(summaries)]


def _reach(summaries: Sequence[VariantSummary]) -> list[str]:
    """Say how far a study of few steps or a single seed can be trusted."""
    first = summaries[0].records[0]
    share = first.recipe.steps / RECIPES["published"].steps
    limits = []
    if share < _SHORT:
        limits.append(
            f"{first.recipe.steps:,} steps are {100 * share:.2g} % of the published training: what "
            "ranks variants here may not rank them there"
        )
    if all(len(summary.records) == 1 for summary in summaries):
        limits.append("one seed each: the intervals do not hold what another seed would change")
    return [f"How far this reaches: {'; '.join(limits)}."] if limits else []


def _alt(summaries: Sequence[VariantSummary], space: Space) -> str:
    names = ", ".join(summary.label for summary in summaries if summary.on_front)
    return f"Scatter plot of {len(summaries)} variants; on the front: {names}."

"""Commands that measure what a model costs: counts and times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import tcm_lab
from tcm_lab._utils.progress import progress
from tcm_lab.cli import options
from tcm_lab.cli.options import Flag, Models, Overrides
from tcm_lab.errors import LabError


def complexity(
    models: Models,
    /,
    *,
    size: tuple[str, ...] = ("512x768",),
    format: str = "markdown",
    convention: str = "all",
    detail: str = "totals",
    counter: str = "formula",
    overrides: Overrides = (),
    check: Flag = False,
    explain: Flag = False,
    memory: Flag = False,
    published: Flag = False,
    out: Path | None = None,
) -> int:
    """Count parameters and multiply-accumulates, without weights and without data.

    Args:
        models: Presets, compressai/NAME, or YAML files.
        size: Image sizes, height x width.
        format: Output: markdown, latex, csv, json or html.
        convention: Which operators count: all, no-attention-products or conv-linear-only.
        detail: Columns: totals, or the whole forward pass split by parts or by kinds of operators.
        counter: Counting tool: formula (the fastest), torch, fvcore, ptflops or ptflops-aten.
        overrides: Fields to change in every model, such as 'g_*.split=0.25'.
        check: Run all counters and name every difference; exit code 1 if one is unexplained.
        explain: Find the convention behind each published figure.
        memory: Measure the peak memory of a forward pass, too.
        published: Add published figures of these models, in rows of their own.
        out: File to write instead of printing.
    """
    lab, reporting = tcm_lab.complexity, tcm_lab.reporting
    options.need_some(models, "MODEL")
    form = options.table_form(format)
    kept = options.choice("--convention", convention, lab.CONVENTIONS)
    columns = options.choice("--detail", detail, get_args(reporting.Detail))
    tool = options.choice("--counter", counter, lab.COUNTERS)
    targets = [options.changed(model, overrides) for model in models]
    sizes = [options.size(text) for text in size]
    if check:
        reports = [lab.check(target, size) for target in targets for size in sizes]
        options.show([reporting.check_table(reports)], form, out)
        return 0 if all(report.agrees for report in reports) else 1
    if explain:
        found = [line for target in targets for line in lab.explain(target)]
        options.show([reporting.explain_table(found)], form, out)
        return 0
    records = [
        lab.measure_complexity(target, size, counter=tool, memory=memory)
        for target in targets
        for size in sizes
    ]
    if form == "json":
        options.print_or_write(reporting.records_json(records, convention=kept), out)
        return 0
    beside = reporting.published_beside(records, lab.published_figures()) if published else []
    table = reporting.complexity_table(records, convention=kept, detail=columns, published=beside)
    options.show([table], form, out)
    return 0


def time(
    models: Models,
    /,
    *,
    size: str = "512x768",
    device: str | None = None,
    batch: int = 1,
    repeats: int = 20,
    seconds: float = 60.0,
    warm_up: int = 3,
    precision: str = "float32",
    threads: int | None = None,
    channels_last: bool = True,
    compile: Flag = False,
    stages: Flag = False,
    overrides: Overrides = (),
    format: str = "markdown",
    out: Path | None = None,
) -> None:
    """Time encoding to real bytes and decoding; several models are timed in turn and compared.

    Args:
        models: Presets, compressai/NAME, YAML files or checkpoints; the first is the baseline.
        size: Image size, height x width.
        device: cpu or cuda; by default where the model is, the CPU.
        batch: Images coded at once.
        repeats: Minimum number of timed runs.
        seconds: Minimum duration; medians of shorter measurements are not repeatable.
        warm_up: Runs before the timed ones.
        precision: Arithmetic of the networks: float32, bfloat16 or float16.
        threads: Threads of torch on the CPU.
        channels_last: Memory layout of networks and image.
        compile: Compile the networks first, which takes minutes.
        stages: Show every stage, too.
        overrides: Fields to change in every model.
        format: Output: markdown, latex, csv, json or html.
        out: File to write instead of printing.
    """
    lab, reporting = tcm_lab.complexity, tcm_lab.reporting
    options.need_some(models, "MODEL")
    form = options.table_form(format)
    targets = [_with_weights(model, overrides) for model in models]
    precisions = get_args(lab.TimingOptions.model_fields["precision"].annotation)
    with progress("turn") as on_progress:
        conditions: dict[str, Any] = {
            "batch": batch,
            "repeats": repeats,
            "seconds": seconds,
            "warm_up": warm_up,
            "device": device,
            "precision": options.choice("--precision", precision, precisions),
            "threads": threads,
            "channels_last": channels_last,
            "compile": compile,
            "on_progress": on_progress,
        }
        if len(targets) > 1:
            compared = lab.compare_timing(targets, options.size(size), **conditions)
            records, ratios = list(compared.records), compared.ratios
        else:
            records = [lab.measure_timing(targets[0], options.size(size), **conditions)]
            ratios = ()
    if form == "json":
        options.print_or_write(reporting.records_json(records), out)
        return
    tables = [reporting.timing_table(records, ratios)]
    if stages:
        tables.append(reporting.stage_table(records))
    options.show(tables, form, out)


def _with_weights(model: str, overrides: Sequence[str]) -> Any:
    """Return a checkpoint's codec, or what `measure_timing` builds with random weights."""
    if not options.is_checkpoint(model):
        return options.changed(model, overrides)
    if overrides:
        raise LabError(f"--set: {model} is a checkpoint, whose architecture cannot be changed.")
    return tcm_lab.load_checkpoint(model)

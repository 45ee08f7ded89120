"""Commands that measure what a model costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tcm_lab._commands import options
from tcm_lab._commands.options import Convention, Detail, Flag, Form, Models, Overrides
from tcm_lab._utils.progress import progress
from tcm_lab.errors import LabError


def complexity(
    models: Models,
    /,
    *,
    size: tuple[str, ...] = ("512x768",),
    format: Form = "markdown",
    convention: Convention = "all",
    detail: Detail = "totals",
    counter: Literal["formula", "torch", "fvcore", "ptflops"] = "formula",
    overrides: Overrides = (),
    check: Flag = False,
    explain: Flag = False,
    memory: Flag = False,
    published: Flag = False,
    out: Path | None = None,
) -> int:
    """Count parameters and multiply-accumulates, without weights and without data.

    Args:
        models: presets, compressai/NAME, or YAML files.
        size: image sizes, height x width.
        format: what to print.
        convention: which operators the figures count.
        detail: totals, or the whole forward pass split by parts or by kinds of operators.
        counter: what counts; closed formulas need no tool and no time.
        overrides: fields to change in every model, such as 'g_*.split=0.25'.
        check: run all counters and name every difference; exit code 1 if one has no name.
        explain: say which convention reproduces which published figure.
        memory: measure the peak memory of a forward pass too.
        published: add what others printed of these models, in rows of their own.
        out: write to this file instead.
    """
    from tcm_lab import complexity as lab
    from tcm_lab import reporting

    options.need_some(models, "MODEL")
    targets = [options.changed(model, overrides) for model in models]
    sizes = [options.size(text) for text in size]
    if check:
        reports = [lab.check(target, size) for target in targets for size in sizes]
        options.show([reporting.check_table(reports)], format, out)
        return 0 if all(report.agrees for report in reports) else 1
    if explain:
        found = [line for target in targets for line in lab.explain(target)]
        options.show([reporting.explain_table(found)], format, out)
        return 0
    records = [
        lab.measure_complexity(target, size, counter=counter, memory=memory)
        for target in targets
        for size in sizes
    ]
    if format == "json":
        options.print_or_write(reporting.records_json(records, convention=convention), out)
        return 0
    beside = reporting.published_beside(records, lab.published_figures()) if published else []
    table = reporting.complexity_table(
        records, convention=convention, detail=detail, published=beside
    )
    options.show([table], format, out)
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
    precision: Literal["float32", "bfloat16", "float16"] = "float32",
    threads: int | None = None,
    channels_last: bool = True,
    compile: Flag = False,
    stages: Flag = False,
    overrides: Overrides = (),
    format: Form = "markdown",
    out: Path | None = None,
) -> int:
    """Time encoding to real bytes and decoding; several models take turns and are compared.

    Args:
        models: presets, compressai/NAME, YAML files or checkpoints; the first is the baseline.
        size: image size, height x width.
        device: cpu or cuda; by default where the model is, the CPU.
        batch: images coded at once.
        repeats: runs that count, at least.
        seconds: how long they go on, at least; a shorter run's medians do not repeat.
        warm_up: runs before them.
        precision: arithmetic of the networks.
        threads: of torch on the CPU.
        channels_last: memory layout of networks and image.
        compile: compile the networks first, which takes minutes.
        stages: show every stage, too.
        overrides: fields to change in every model.
        format: what to print.
        out: write to this file instead.
    """
    from tcm_lab import complexity as lab
    from tcm_lab import reporting

    options.need_some(models, "MODEL")
    targets = [_with_weights(model, overrides) for model in models]
    conditions: dict[str, Any] = {
        "batch": batch,
        "repeats": repeats,
        "seconds": seconds,
        "warm_up": warm_up,
        "device": device,
        "precision": precision,
        "threads": threads,
        "channels_last": channels_last,
        "compile": compile,
    }
    with progress("turn") as on_progress:
        conditions["on_progress"] = on_progress
        if len(targets) > 1:
            compared = lab.compare_timing(targets, options.size(size), **conditions)
            records, ratios = list(compared.records), compared.ratios
        else:
            records, ratios = (
                [lab.measure_timing(targets[0], options.size(size), **conditions)],
                (),
            )
    if format == "json":
        options.print_or_write(reporting.records_json(records), out)
        return 0
    tables = [reporting.timing_table(records, ratios)]
    if stages:
        tables.append(reporting.stage_table(records))
    options.show(tables, format, out)
    return 0


def _with_weights(model: str, overrides: Sequence[str]) -> Any:
    """Return a checkpoint's codec, or what `measure_timing` builds with random weights."""
    path = Path(model)
    if path.is_file() and path.suffix not in (".yaml", ".yml"):
        from tcm_lab.codec import load_checkpoint

        if overrides:
            raise LabError(f"--set: {model} is a checkpoint, whose fields are what they are.")
        return load_checkpoint(path)
    return options.changed(model, overrides)

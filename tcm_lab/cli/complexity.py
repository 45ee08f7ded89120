"""Commands that measure what a model costs: counts and times."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Annotated, Any, get_args

import tcm_lab
from tcm_lab._utils.devices import checked_device, checked_precision
from tcm_lab._utils.progress import progress
from tcm_lab.cli import options
from tcm_lab.cli.models import Models, Overrides, Weights, entries
from tcm_lab.cli.options import Flag, Output
from tcm_lab.errors import LabError

_SIZES = ("512x768",)


def complexity(
    models: Models,
    /,
    *,
    size: tuple[str, ...] = _SIZES,
    convention: str = "all",
    detail: str = "totals",
    counter: str = "formula",
    overrides: Overrides = (),
    checkpoints: Weights = (),
    check: Flag = False,
    explain: Flag = False,
    memory: Flag = False,
    published: Flag = False,
    output: Output,
) -> int:
    """Count parameters and multiply-accumulates, without weights and without data.

    Args:
        models: Presets, YAML files, checkpoints, compressai/NAME, or your own codecs:
            FILE.py:FACTORY or package.module:FACTORY, where FACTORY is a function or class that
            makes a codec, or any other network that takes an image.
        size: Image sizes, height x width.
        convention: Which operators count: all, no-attention-products or conv-linear-only.
        detail: Columns: totals, or the whole forward pass split by parts or by kinds of operators.
        counter: Counting tool: formula (the fastest), torch, fvcore, ptflops or ptflops-aten.
        overrides: Fields to change in every model, such as 'g_*.split=0.25'; for your own codec,
            arguments of its factory.
        checkpoints: Weights of your own codec; its class may read its widths from them.
        check: Run all counters and name their differences; exit code 1 unless formula and torch
            agree.
        explain: Find the convention behind each published figure.
        memory: Also measure the peak memory of a forward pass.
        published: Add published figures of these models, in separate rows.
        output: How the result is shown.
    """
    lab, reporting = tcm_lab.complexity, tcm_lab.reporting
    output.check()
    counted = options.choice("--convention", convention, lab.CONVENTIONS)
    columns = options.choice("--detail", detail, get_args(reporting.Detail))
    tool = options.choice("--counter", counter, lab.COUNTERS)
    chosen = {
        "--convention": convention != "all",
        "--detail": detail != "totals",
        "--counter": counter != "formula",
        "--memory": memory,
        "--published": published,
    }
    if check:
        options.refuse_idle("--check", {**chosen, "--explain": explain})
    if explain:
        options.refuse_idle("--explain", {**chosen, "--size": size != _SIZES})
    if output.chosen == "json":
        options.refuse_idle("the format json", {"--published": published})
    given = entries(models, checkpoints)
    targets = [_counted(entry.target(overrides)) for entry in given]
    sizes = [_size(text) for text in size]
    if check:
        reports = [lab.check(target, size) for target in targets for size in sizes]
        output.show(reporting.check_table(reports))
        return 0 if all(report.agrees for report in reports) else 1
    if explain:
        found = [line for target in targets for line in lab.explain(target)]
        output.show(reporting.explain_table(found))
        return 0
    records = [
        lab.measure_complexity(target, size, counter=tool, memory=memory)
        for target in targets
        for size in sizes
    ]
    tables = reporting.tables_of(records, convention=counted, detail=columns, published=published)
    output.show_records(records, tables, counted)
    return 0


def _counted(target: Any) -> Any:
    """Return the target to be counted, with a warning if it is a network but not a codec."""
    if isinstance(target, str) and tcm_lab.codec.is_own(target):
        target = tcm_lab.build(target)
    if not hasattr(target, "forward"):
        return target
    adapter = tcm_lab.codec.CodecAdapter(target)
    if not (adapter.can_code or adapter.has_named_parts):
        warnings.warn(
            f"{adapter.name}: is counted as a network, not as a codec: it lacks compress() or "
            "decompress() and parts called g_a and g_s, so the same forward pass of an image "
            "counts as the whole, as encoding and as decoding",
            tcm_lab.complexity.UncountedWarning,
            stacklevel=2,
        )
    return target


@options.flowing
@dataclass(frozen=True)
class Conditions:
    """How times are measured.

    Attributes:
        device: cpu or cuda; by default the model's device, the CPU.
        batch: Number of images coded at once.
        repeats: Minimum number of timed runs.
        seconds: Minimum duration; medians of shorter measurements are not repeatable.
        warm_up: Number of runs before the timed ones.
        precision: Arithmetic of the networks: float32, tf32 (GPUs only), bfloat16 or float16.
        threads: Number of CPU threads for torch.
        channels_last: Use the channels-last memory layout for networks and images.
        compile: Compile the networks first, which takes minutes.
        compile_backend: Compiler: inductor by default; cudagraphs replays a GPU's kernel launches.
        portable: Also time portable streams, in addition to the ordinary ones of each model.
    """

    device: Annotated[str | None, options.UNSET] = None
    batch: int = 1
    repeats: int = 20
    seconds: float = 60.0
    warm_up: int = 3
    precision: str = "float32"
    threads: Annotated[int | None, options.UNSET] = None
    channels_last: bool = True
    compile: Flag = False
    compile_backend: Annotated[str | None, options.UNSET] = None
    portable: Flag = False

    def timing(self) -> dict[str, Any]:
        """Return the conditions as fields of `TimingOptions`.

        Raises:
            LabError: a device or a precision is not available, or an option has no effect.
        """
        place = checked_device(self.device or "cpu", "--device")
        checked_precision(self.precision, place, "--precision")
        backend, option = self.compile_backend or "inductor", "--compile-backend"
        options.choice(option, backend, get_args(tcm_lab.complexity.CompileBackend))
        if not self.compile:
            options.refuse_idle("networks that are not compiled", {option: self.compile_backend})
        if backend == "cudagraphs" and place.type != "cuda":
            raise LabError(f"{option} cudagraphs: records a GPU's launches; use inductor here.")
        return {**vars(self), "compile_backend": backend}


def time(
    models: Models,
    /,
    *,
    size: str = "512x768",
    stages: Flag = False,
    overrides: Overrides = (),
    checkpoints: Weights = (),
    conditions: Conditions,
    output: Output,
) -> None:
    """Time encoding to real bytes and decoding; several models are timed in turn and compared.

    Args:
        models: Presets, YAML files, checkpoints, compressai/NAME, or your own codecs:
            FILE.py:FACTORY or package.module:FACTORY. The first is the baseline.
        size: Image size, height x width.
        stages: Also show every stage.
        overrides: Fields to change in every model.
        checkpoints: Weights of compressai/NAME or of your own codec.
        conditions: How times are measured.
        output: How the result is shown.
    """
    lab, reporting = tcm_lab.complexity, tcm_lab.reporting
    output.check()
    if stages and output.chosen == "csv":
        raise LabError("--stages: adds a second table, but csv holds one. Use another format.")
    changes = conditions.timing()
    targets = [entry.target(overrides) for entry in entries(models, checkpoints)]
    sides = _size(size)
    with progress("turn") as on_progress:
        if conditions.portable or len(targets) > 1:
            compared = lab.compare_timing(targets, sides, on_progress=on_progress, **changes)
            records, ratios = compared.records, compared.ratios
        else:
            records = (lab.measure_timing(targets[0], sides, on_progress=on_progress, **changes),)
            ratios = ()
    tables = [reporting.timing_table(records, ratios)]
    if stages:
        tables.append(reporting.stage_table(records))
    output.show_records(records, tables)


def _size(text: str) -> tuple[int, int]:
    """Read ``HxW``.

    Raises:
        LabError: the text has another form.
    """
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text.strip(), re.IGNORECASE)
    if found is None:
        raise LabError(f"--size {text}: write height x width in pixels, such as 512x768.")
    return int(found[1]), int(found[2])

"""Tables of times: each model's medians and quartiles, its stages, and ratios within a run."""

from __future__ import annotations

from collections.abc import Sequence

from tcm_lab.complexity import Spread, TimeRatio, TimingOptions, TimingRecord
from tcm_lab.reporting._notes import device_text, need, size_text, versions_text
from tcm_lab.reporting.table import Column, Row, Table, Value, metric_column, unmarked_column
from tcm_lab.stats import Interval

_SCOPES = ("encode", "decode")
_STAGE_NAMES = {"entropy_coding": "entropy coding"}


def timing_table(records: Sequence[TimingRecord], ratios: Sequence[TimeRatio] = ()) -> Table:
    """Return one row per record: median and quartiles of the wall time, throughput, memory.

    Args:
        records: records of one or several runs; only those of the same run may be compared.
        ratios: ratios of that run; its first model is marked as the baseline.

    Raises:
        LabError: no records given.
    """
    need("records", records)
    conditions = _conditions(records)
    columns = [Column(key=key, header=key) for key in ("model", *conditions[0])]
    for scope in _SCOPES:
        columns += [
            metric_column(f"{scope}_ms", header="median [quartiles]", group=scope, format=".1f"),
            Column(key=f"{scope}_megapixels_per_s", header="throughput", group=scope, unit="Mpx/s",
                   format=".2f", best="high"),
            Column(key=f"{scope}_ratio", header="ratio to the first", group=scope, format=".3f"),
        ]  # fmt: skip
    columns.append(metric_column("peak_memory_bytes", key="peak_device_memory_bytes"))
    over = {(ratio.model, str(ratio.scope)): ratio.ratio for ratio in ratios}
    rows = []
    for record, differing in zip(records, conditions, strict=True):
        values: dict[str, Value] = {"model": record.model, **differing}
        values["peak_device_memory_bytes"] = record.peak_device_memory_bytes
        for scope in _SCOPES:
            timing = getattr(record, scope)
            values[f"{scope}_ms"] = spread_interval(timing.wall)
            values[f"{scope}_megapixels_per_s"] = timing.megapixels_per_s
            if (record.model, scope) in over:
                values[f"{scope}_ratio"] = over[record.model, scope]
        first = record is records[0] and any(ratio.baseline == record.model for ratio in ratios)
        rows.append(Row(values=values, marks=("baseline",) if first else ()))
    compared: list[str] = []
    if ratios:
        level = f"{ratios[0].ratio.level:.0%}"
        compared = [f"Ratios with {level} bootstrap intervals over shared turns."]
    elif len(records) > 1:
        compared = ["Times of different runs are not comparable."]
    return Table(
        title="Coding time",
        columns=columns,
        rows=rows,
        footer=[*compared, *_footer(records)],
    ).without_empty_columns()


def stage_table(records: Sequence[TimingRecord]) -> Table:
    """Return one row per model and stage; the stages of a model add up to its total.

    Raises:
        LabError: no records given.
    """
    need("records", records)
    conditions = _conditions(records)
    columns = [Column(key=key, header=key) for key in ("model", *conditions[0], "stage")]
    for scope in _SCOPES:
        look = {"header": "median [quartiles]", "group": scope, "format": ".2f"}
        columns.append(unmarked_column(f"{scope}_ms", **look))
        share = f"{scope}_percent"
        columns.append(Column(key=share, header="share", group=scope, unit="%", format=".1f"))
    rows = []
    for record, differing in zip(records, conditions, strict=True):
        stages = dict.fromkeys([*record.encode.stages, *record.decode.stages])
        stages |= {"other": stages.pop("other", None)}
        for stage in [*stages, "whole"]:
            values: dict[str, Value] = {"model": record.model, **differing}
            values["stage"] = _STAGE_NAMES.get(stage, stage)
            for scope in _SCOPES:
                timing = getattr(record, scope)
                spread = timing.wall if stage == "whole" else timing.stages.get(stage)
                if spread is not None:
                    values[f"{scope}_ms"] = spread_interval(spread)
                    values[f"{scope}_percent"] = 100 * spread.median_ms / timing.wall.median_ms
            rows.append(Row(values=values))
    return Table(title="Coding time by stage", columns=columns, rows=rows, footer=_footer(records))


def spread_interval(spread: Spread) -> Interval:
    """Return a median over turns and its quartiles, in milliseconds, as an interval for tables."""
    return Interval(
        value=spread.median_ms,
        low=spread.lower_quartile_ms,
        high=spread.upper_quartile_ms,
        level=0.5,
    )


def _all_conditions(record: TimingRecord) -> dict[str, str]:
    """Return the conditions that a time depends on, in addition to the model, by column key."""
    environment, on_cpu = record.environment, record.device_type == "cpu"
    return {
        "size": size_text(record.size),
        "batch": str(record.options.batch),
        "device": device_text(environment) if on_cpu else environment.device,
        "precision": record.options.precision,
        "layout": "channels last" if record.options.channels_last else "channels first",
        "compiled": _compiled(record.options),
    }


def _compiled(options: TimingOptions) -> str:
    if not options.compile:
        return "eager"
    default = TimingOptions.model_fields["compile_backend"].default
    by = "" if options.compile_backend == default else f" by {options.compile_backend}"
    return f"compiled{by}"


def _conditions(records: Sequence[TimingRecord]) -> list[dict[str, str]]:
    """Return those conditions of each record that differ between the records."""
    conditions = [_all_conditions(record) for record in records]
    differing = [key for key in conditions[0] if len({own[key] for own in conditions}) > 1]
    return [{key: own[key] for key in differing} for own in conditions]


def _footer(records: Sequence[TimingRecord]) -> list[str]:
    differing = _conditions(records)[0]
    shared = [
        f"batch {text}" if key == "batch" else text
        for key, text in _all_conditions(records[0]).items()
        if key not in differing
    ]
    counts = sorted({(r.encode.wall.n, r.options.warm_up) for r in records})
    repeats = "; ".join(
        f"{n} runs after {warm_up} warm-up {'run' if warm_up == 1 else 'runs'}"
        for n, warm_up in counts
    )
    peaks = sorted(
        {
            f"{peak.gmacs_per_s:.0f} GMAC/s in one large matrix product, "
            f"{peak.gbytes_per_s:.0f} GB/s in a copy"
            for peak in (record.device_peak for record in records)
            if peak is not None
        }
    )
    device_peak = [f"Device peak: {'; '.join(peaks)}."] if peaks else []
    versions = versions_text(record.environment.versions for record in records)
    return [f"{', '.join(shared)}; {repeats}.", *device_peak, f"{versions}."]

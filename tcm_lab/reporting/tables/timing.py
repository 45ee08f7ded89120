"""Tables of times: each model's medians and quartiles, its stages, and ratios within one run."""

from __future__ import annotations

from collections.abc import Sequence

from tcm_lab.complexity import Spread, TimeRatio, TimingRecord
from tcm_lab.reporting._notes import device_text, need, size_text, versions_text
from tcm_lab.reporting.table import Column, Row, Table, Value, metric_column
from tcm_lab.stats import Interval

_DIRECTIONS = ("encode", "decode")
_STAGE_NAMES = {"entropy_coding": "entropy coding"}


def timing_table(
    records: Sequence[TimingRecord], ratios: Sequence[TimeRatio] = (), *, title: str = ""
) -> Table:
    """Return one row per record: median and quartiles of the wall time, throughput, memory.

    Args:
        records: of one run or of several; only those of one run may be compared.
        ratios: of the same run; their first model is marked as the baseline.
        title: one line.

    Raises:
        LabError: no records given.
    """
    need("records", records)
    columns = [Column(key="model", header="model"), *_conditions_that_differ(records)]
    for way in _DIRECTIONS:
        throughput = f"{way}_megapixels_per_s"
        columns += [
            metric_column(f"{way}_ms", header="median [quartiles]", group=way, format=".1f"),
            Column(key=throughput, header="throughput", group=way, unit="Mpx/s", format=".2f",
                   best="high"),
        ]  # fmt: skip
        if ratios:
            header = "over the first"
            columns.append(Column(key=f"{way}_ratio", header=header, group=way, format=".3f"))
    if any(record.peak_device_memory_bytes is not None for record in records):
        columns.append(metric_column("peak_memory_bytes", key="peak_device_memory_bytes"))
    baseline = ratios[0].baseline if ratios else ""
    rows = []
    for record in records:
        values: dict[str, Value] = {"model": record.model, **_conditions(record)}
        for way in _DIRECTIONS:
            timing = getattr(record, way)
            values[f"{way}_ms"] = _span(timing.wall)
            values[f"{way}_megapixels_per_s"] = timing.megapixels_per_s
        values["peak_device_memory_bytes"] = record.peak_device_memory_bytes
        for ratio in ratios:
            if ratio.model == record.model:
                values[f"{ratio.scope}_ratio"] = ratio.ratio
        is_baseline = record.model == baseline and record is records[0]
        rows.append(Row.of(columns, values, marks=("baseline",) if is_baseline else ()))
    compared: tuple[str, ...] = ()
    if ratios:
        level = f"{ratios[0].ratio.level:.0%}"
        compared = (f"Ratios with their {level} intervals by bootstrap over shared turns.",)
    elif len(records) > 1:
        compared = ("Times of different runs do not compare.",)
    return Table(
        title=title or "Coding time",
        columns=tuple(columns),
        rows=tuple(rows),
        footer=(*compared, *_footer(records)),
    )


def stage_table(records: Sequence[TimingRecord], *, title: str = "") -> Table:
    """Return one row per model and stage; the stages of a model add up to its whole.

    Raises:
        LabError: no records given.
    """
    need("records", records)
    columns = [
        Column(key="model", header="model"),
        *_conditions_that_differ(records),
        Column(key="stage", header="stage"),
    ]
    for way in _DIRECTIONS:
        look = {"header": "median [quartiles]", "group": way, "format": ".2f", "best": None}
        columns.append(metric_column(f"{way}_ms", **look))
        share = f"{way}_percent"
        columns.append(Column(key=share, header="share", group=way, unit="%", format=".1f"))
    rows = []
    for record in records:
        stages = dict.fromkeys([*record.encode.stages, *record.decode.stages])
        stages |= {"other": stages.pop("other", None)}
        for stage in [*stages, "whole"]:
            values: dict[str, Value] = {
                "model": record.model,
                **_conditions(record),
                "stage": _STAGE_NAMES.get(stage, stage),
            }
            for way in _DIRECTIONS:
                timing = getattr(record, way)
                spread = timing.wall if stage == "whole" else timing.stages.get(stage)
                if spread is not None:
                    values[f"{way}_ms"] = _span(spread)
                    values[f"{way}_percent"] = 100 * spread.median_ms / timing.wall.median_ms
            rows.append(Row.of(columns, values))
    return Table(
        title=title or "Coding time by stage",
        columns=tuple(columns),
        rows=tuple(rows),
        footer=_footer(records),
    )


def _span(spread: Spread) -> Interval:
    return Interval(
        value=spread.median_ms,
        low=spread.lower_quartile_ms,
        high=spread.upper_quartile_ms,
        level=0.5,
    )


def _conditions(record: TimingRecord) -> dict[str, Value]:
    """Return what a time depends on beside the model, by column key."""
    place, on_cpu = record.environment, record.device_type == "cpu"
    return {
        "size": size_text(record.size),
        "batch": str(record.options.batch),
        "device": device_text(place) if on_cpu else place.device,
        "precision": record.options.precision,
        "layout": "channels last" if record.options.channels_last else "channels first",
        "compiled": "compiled" if record.options.compile else "eager",
    }


def _conditions_that_differ(records: Sequence[TimingRecord]) -> list[Column]:
    conditions = [_conditions(record) for record in records]
    return [
        Column(key=key, header=key)
        for key in conditions[0]
        if len({str(condition[key]) for condition in conditions}) > 1
    ]


def _footer(records: Sequence[TimingRecord]) -> tuple[str, ...]:
    differing = {column.key for column in _conditions_that_differ(records)}
    shared = {k: v for k, v in _conditions(records[0]).items() if k not in differing}
    words = [f"batch {v}" if k == "batch" else str(v) for k, v in shared.items()]
    counts = sorted({(r.encode.wall.n, r.options.warm_up) for r in records})
    repeats = "; ".join(f"{n} runs after {warm_up} to warm up" for n, warm_up in counts)
    device_peaks = {
        f"{device_peak.gmacs_per_s:.0f} GMAC/s in one large matrix product, "
        f"{device_peak.gbytes_per_s:.0f} GB/s in a copy"
        for device_peak in (record.device_peak for record in records)
        if device_peak is not None
    }
    listed = versions_text(record.environment.versions for record in records)
    allowed = [f"The device allowed {'; '.join(sorted(device_peaks))}."] if device_peaks else []
    return (f"{', '.join(words)}; {repeats}.", *allowed, f"{listed}.")

"""Write tables of the measurements of ``tests/gpu/run_all.py`` on a GPU.

``python studies/gpu/make.py FOLDER`` copies the records that the script left in FOLDER to this
folder and writes the tables; without FOLDER it uses the records that are already here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tcm_lab._utils.files import write_atomically
from tcm_lab.complexity import TimingComparison, TimingOptions, TimingRecord
from tcm_lab.reporting import Column, Row, Table, Value, spread_interval, stage_table, timing_table
from tcm_lab.study.report import write_tables

HERE = Path(__file__).parent
TIMES, TRAINING = "times.jsonl", "training.jsonl"
BACKENDS = {"cudagraphs": "CUDA graphs", "inductor": "compiled", "eager": "graphs alone"}


class Published(NamedTuple):
    """Published milliseconds for a 512x768 image."""

    model: str
    encode_ms: float
    decode_ms: float
    source: str


DCAE = "DCAE (Lu et al. 2025), README of the authors' code; the device is not named"
HPCM = "HPCM (Li et al. 2025), README of the authors' code; the device is not named"
PUBLISHED_SIZE = (512, 768)
PUBLISHED = (
    Published("tcm-large", 142, 151, DCAE),
    Published("mlicpp", 362, 410, DCAE),
    Published("dcae", 93, 100, DCAE),
    Published("mlicpp", 193.4, 226.4, HPCM),
    Published("hpcm-base", 81.8, 81.3, HPCM),
)


class Times(NamedTuple):
    """Timings: comparisons with the plain baseline, single models, and messages of failures."""

    comparisons: list[TimingComparison]
    records: list[TimingRecord]
    failed: list[str]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file with one record per line, or none if there is no such file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_times(folder: Path) -> Times:
    """Return the timings in a folder."""
    times = Times([], [], [])
    for line in read_lines(folder / TIMES):
        if "comparison" in line:
            times.comparisons.append(TimingComparison.model_validate(line["comparison"]))
        elif "record" in line:
            times.records.append(TimingRecord.model_validate(line["record"]))
        else:
            size, how = "x".join(map(str, line["size"])), line["condition"] or "float32"
            times.failed.append(f"{line['model']} at {size}, {how}: {line['error']}")
    return times


def tables(folder: Path) -> dict[str, Table]:
    """Return every table that the records in a folder allow, by file name."""
    times, by_file = read_times(folder), dict[str, Table]()
    for comparison in times.comparisons:
        name = comparison.records[-1].model
        by_file[f"baseline-{name}"] = timing_table(comparison.records, comparison.ratios)
    for size in sorted({record.size for record in times.records}):
        own = [record for record in times.records if record.size == size]
        name = "x".join(map(str, size))
        by_file[f"coding-{name}"] = coding_table(own, times.failed)
        plain = [record for record in own if condition(record.options) == "float32"]
        if plain:
            by_file[f"stages-{name}"] = stage_table(plain)
    if paces := read_lines(folder / TRAINING):
        by_file["training"] = training_table(paces)
    return by_file


def condition(options: TimingOptions) -> str:
    """Return the column header for the conditions of a measurement."""
    if not options.compile:
        return options.precision
    return f"{options.precision}, {BACKENDS[options.compile_backend]}"


def coding_table(records: Sequence[TimingRecord], failed: Sequence[str]) -> Table:
    """Return a row per model and two columns per condition, for images of one size."""
    conditions = list(dict.fromkeys(condition(record.options) for record in records))
    columns = [Column(key="model", header="model")]
    for name in conditions:
        columns += [
            Column(key=f"{scope} {name}", header=scope, group=name, unit="ms", format=".1f")
            for scope in ("encode", "decode")
        ]
    columns.append(Column(key="memory", header="peak memory", unit="MB", format=",.0f", scale=1e-6))
    rows = [
        Row(values=_times_of(model, [each for each in records if each.model == model]))
        for model in dict.fromkeys(record.model for record in records)
    ]
    first = records[0]
    if first.size == PUBLISHED_SIZE:
        rows += [*_published({record.model for record in records}, conditions[0])]
    size = "x".join(map(str, first.size))
    runs = sorted({record.encode.wall.n for record in records})
    footer = [
        f"Medians [quartiles] of {' or '.join(map(str, runs))} runs on one {size} image, one model "
        "after the other; ratios within one run are in the tables of the plain implementation.",
        f"{first.environment.device}; torch {first.environment.versions.get('torch', '?')}. Peak "
        "memory is that of the first condition, weights included.",
        *(f"Failed: {each}." for each in failed if f" at {size}," in each),
    ]
    return Table(
        title=f"Coding time at {size}", columns=columns, rows=rows, footer=footer
    ).without_empty_columns()


def _times_of(model: str, records: Sequence[TimingRecord]) -> dict[str, Value]:
    values: dict[str, Value] = {
        "model": model,
        "memory": records[0].peak_device_memory_bytes,
    }
    for record in records:
        name = condition(record.options)
        values[f"encode {name}"] = spread_interval(record.encode.wall)
        values[f"decode {name}"] = spread_interval(record.decode.wall)
    return values


def _published(models: set[str], name: str) -> Iterator[Row]:
    for each in PUBLISHED:
        if each.model in models:
            yield Row(
                values={
                    "model": each.model,
                    f"encode {name}": each.encode_ms,
                    f"decode {name}": each.decode_ms,
                },
                source=each.source,
            )


def training_table(paces: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row per model and precision, and a column per number of parallel training runs."""
    counts = sorted({pace["side_by_side"] for pace in paces})
    by_row: dict[tuple[str, str], dict[str, Value]] = {}
    for pace in paces:
        key = pace["model"], pace["precision"]
        row = by_row.setdefault(key, {"model": key[0], "precision": key[1]})
        row[f"crops_per_s {pace['side_by_side']}"] = pace["crops_per_s"]
    shapes = sorted({f"{pace['batch']} of {pace['crop']}x{pace['crop']}" for pace in paces})
    return Table(
        title="Training throughput",
        columns=(
            Column(key="model", header="model"),
            Column(key="precision", header="precision"),
            *(
                Column(key=f"crops_per_s {count}", header=f"{count} in parallel", format=",.1f",
                       group="crops per second, in total")
                for count in counts
            ),
        ),
        rows=tuple(Row(values=values) for values in by_row.values()),
        footer=(
            f"Four rates; crops per step: {', '.join(shapes)}; one process per training run.",
        ),
    )  # fmt: skip


def main() -> None:
    """Copy the records, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="folder written by run_all.py")
    parser.add_argument("--out", type=Path, default=HERE, help="default: the folder of this file")
    args = parser.parse_args()
    if args.folder is not None:
        for name in (TIMES, TRAINING):
            if (source := args.folder / name).exists():
                args.out.mkdir(parents=True, exist_ok=True)
                write_atomically(args.out / name, source.read_text(encoding="utf-8"))
    by_file = tables(args.out)
    if not by_file:
        parser.error(f"{args.out}: contains no {TIMES} and no {TRAINING}; run run_all.py first")
    for path in write_tables(by_file, args.out):
        print(path)


if __name__ == "__main__":
    main()

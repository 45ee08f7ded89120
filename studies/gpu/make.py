"""Tables of what ``tests/gpu/run_all.py`` measured on a GPU.

``python studies/gpu/make.py FOLDER`` keeps the records that the script left in FOLDER beside this
file and writes the tables; without FOLDER it writes those of the records that are here.
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
    """Milliseconds that a paper prints for an image of 512x768."""

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
    """What was timed: comparisons with the plain baseline, single models, and what failed."""

    comparisons: list[TimingComparison]
    records: list[TimingRecord]
    failed: list[str]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file, one a line; none of one that is not there."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_times(folder: Path) -> Times:
    """Return what the script timed."""
    found = Times([], [], [])
    for line in read_lines(folder / TIMES):
        if "comparison" in line:
            found.comparisons.append(TimingComparison.model_validate(line["comparison"]))
        elif "record" in line:
            found.records.append(TimingRecord.model_validate(line["record"]))
        else:
            size, how = "x".join(map(str, line["size"])), line["condition"] or "float32"
            found.failed.append(f"{line['model']} at {size}, {how}: {line['error']}")
    return found


def tables(folder: Path) -> dict[str, Table]:
    """Return every table that the records in a folder allow, by the name of its files."""
    times, found = read_times(folder), dict[str, Table]()
    for comparison in times.comparisons:
        name = comparison.records[-1].model
        found[f"baseline-{name}"] = timing_table(comparison.records, comparison.ratios)
    for size in sorted({record.size for record in times.records}):
        own = [record for record in times.records if record.size == size]
        name = "x".join(map(str, size))
        found[f"coding-{name}"] = coding_table(own, times.failed)
        plain = [record for record in own if condition(record.options) == "float32"]
        if plain:
            found[f"stages-{name}"] = stage_table(plain)
    if paces := read_lines(folder / TRAINING):
        found["training"] = training_table(paces)
    return found


def condition(options: TimingOptions) -> str:
    """Return what a column calls the conditions of a time."""
    if not options.compile:
        return options.precision
    return f"{options.precision}, {BACKENDS[options.compile_backend]}"


def coding_table(records: Sequence[TimingRecord], failed: Sequence[str]) -> Table:
    """Return a row per model with a pair of columns per condition, of images of one size."""
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
        f"Medians [quartiles] of {' or '.join(map(str, runs))} runs of one {size} image each, one "
        "model after the other; ratios within one run are in the tables beside the plain way.",
        f"{first.environment.device}; torch {first.environment.versions.get('torch', '?')}. Peak "
        "memory of the first condition, weights included.",
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
    """Return a row per model and precision, with the pace of as many trainings side by side."""
    counts = sorted({pace["side_by_side"] for pace in paces})
    by_row: dict[tuple[str, str], dict[str, Value]] = {}
    for pace in paces:
        key = pace["model"], pace["precision"]
        row = by_row.setdefault(key, {"model": key[0], "precision": key[1]})
        row[f"crops_per_s {pace['side_by_side']}"] = pace["crops_per_s"]
    shapes = sorted({f"{pace['batch']} of {pace['crop']}x{pace['crop']}" for pace in paces})
    return Table(
        title="Training pace",
        columns=(
            Column(key="model", header="model"),
            Column(key="precision", header="precision"),
            *(
                Column(key=f"crops_per_s {count}", header=f"{count} side by side", format=",.1f",
                       group="crops a second, all together")
                for count in counts
            ),
        ),
        rows=tuple(Row(values=values) for values in by_row.values()),
        footer=(
            f"Four rates; crops a step: {', '.join(shapes)}; a process for each training.",
        ),
    )  # fmt: skip


def main() -> None:
    """Keep the records, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="what run_all.py wrote")
    parser.add_argument("--out", type=Path, default=HERE, help="by default beside this file")
    given = parser.parse_args()
    if given.folder is not None:
        for name in (TIMES, TRAINING):
            if (source := given.folder / name).exists():
                given.out.mkdir(parents=True, exist_ok=True)
                write_atomically(given.out / name, source.read_text(encoding="utf-8"))
    found = tables(given.out)
    if not found:
        parser.error(f"{given.out}: holds no {TIMES} and no {TRAINING}; run run_all.py first")
    for path in write_tables(found, given.out):
        print(path)


if __name__ == "__main__":
    main()

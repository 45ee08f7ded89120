"""Store the measurements of ``nox -s bench`` as records, and write the table of this page.

nox -s bench -- --benchmark-json=bench.json
python studies/speed/make.py bench.json
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tcm_lab._utils.files import write_atomically

HERE = Path(__file__).parent


def main() -> None:
    """Write ``records.json`` from pytest-benchmark's files, and ``table.md`` from it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="results of pytest-benchmark")
    files = parser.parse_args().files
    if files:
        runs = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        records = [record for run in runs for record in records_of(run)]
        write_atomically(HERE / "records.json", json.dumps(records, indent=1) + "\n")
    records = json.loads((HERE / "records.json").read_text(encoding="utf-8"))
    write_atomically(HERE / "table.md", table(records))


def records_of(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the results and conditions of each benchmark, without machine-specific details."""
    cpu = run["machine_info"]["cpu"]
    conditions = {
        "processor": cpu["brand_raw"],
        "cores": cpu["count"],
        "python": run["machine_info"]["python_version"],
        "torch": version("torch"),
        "day": run["datetime"][:10],
    }
    return [
        {
            "name": bench["name"],
            "median_s": round(bench["stats"]["median"], 4),
            "rounds": bench["stats"]["rounds"],
            **bench["extra_info"],
            **conditions,
        }
        for bench in run["benchmarks"]
    ]


def table(records: list[dict[str, Any]]) -> str:
    """Return a table of the benchmarks that compare with the plain implementation."""
    lines = ["| what | ours (s) | plain (s) | ratio |", "|---|---:|---:|---:|"]
    for record in records:
        if "plain_s" in record:
            what = record["name"].removeprefix("test_").replace("_", " ")
            lines.append(
                f"| {what} | {record['median_s']:.2f} | {record['plain_s']:.2f} "
                f"| **{record['ratio']:.2f}** |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

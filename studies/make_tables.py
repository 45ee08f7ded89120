"""Regenerate every table under ``studies``, byte for byte the same on every machine.

The complexity tables depend only on the configurations and use closed formulas; CompressAI's own
models are run without data under torch's counter. The tables of a study depend on its records.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from tcm_lab.codec import load_config
from tcm_lab.complexity import ComplexityRecord, measure_complexity, published_figures
from tcm_lab.reporting import Table, axis_table, complexity_table, published_beside
from tcm_lab.study.finalists import finalists_of
from tcm_lab.study.folder import RECORDS
from tcm_lab.study.report import study_tables, write_tables
from tcm_lab.study.result import open_result
from tcm_lab.study.summary import summarise

STUDIES = Path(__file__).parent
SIZE = (512, 768)
SIZES = ("tcm-small", "tcm-medium", "tcm-large")
RIVALS = ("cheng2020-attn", "swint-charm", "stf", "wacnn")
PEERS = (
    "compressai/bmshj2018-hyperprior",
    "compressai/mbt2018",
    "compressai/cheng2020-anchor",
    "compressai/cheng2020-attn",
    "compressai/elic2022-official",
)
BASE = "tcm-small"
AXES: dict[str, tuple[str, tuple[object, ...], object]] = {
    "split": ("g_*.split", (0.0, 0.25, 0.5, 0.75, 1.0), 0.5),
    "window": ("g_*.window_size", (4, 8, 16), 8),
    "squeeze": ("entropy_model.attention.squeeze", (64, 128, 192, "none"), 128),
    "slices": ("entropy_model.slices", (1, 2, 4, 5, 8, 10), 5),
    "support": ("entropy_model.support", (0, 1, 2, 3, 4), 4),
}


def tables() -> dict[str, Table]:
    """Return the complexity tables by file name."""
    ours = [measure_complexity(name, SIZE) for name in (*SIZES, *RIVALS)]
    by_file = {
        "models": complexity_table(
            ours, published=published_beside(ours, published_figures()), title="Models at 512x768"
        ),
        "models-by-part": complexity_table(ours, detail="parts"),
        "models-by-kind": complexity_table(ours, detail="kinds"),
        "compressai": complexity_table(
            [_reference_model(name) for name in PEERS],
            title="CompressAI's own models at 512x768, quality 4",
        ),
    }
    for name, (path, values, baseline) in AXES.items():
        base = load_config(BASE)
        records = {
            str(value): measure_complexity(base.override({path: value}), SIZE) for value in values
        }
        title = f"What {path} of {BASE} costs at 512x768"
        by_file[f"axis-{name}"] = axis_table(name, records, str(baseline), title=title)
    return by_file


def _reference_model(name: str) -> ComplexityRecord:
    record = measure_complexity(name, SIZE)
    # The count depends on CompressAI's version, not on torch's, which only runs the counter.
    versions = {"compressai": importlib.metadata.version("compressai")}
    return record.model_copy(update={"versions": versions})


def main() -> None:
    """Write each table as Markdown, CSV and LaTeX."""
    written = write_tables(tables(), STUDIES / "tables")
    for records in sorted(STUDIES.rglob(RECORDS)):
        study = open_result(records.parent)
        summaries = summarise(study.records, study.space)
        finalists = finalists_of(study, summaries)
        written += write_tables(study_tables(summaries, study.space, finalists), study.out)
    for path in written:
        if path.suffix == ".md":
            print(path)


if __name__ == "__main__":
    main()

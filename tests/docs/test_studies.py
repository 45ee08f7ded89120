"""What a study's page says is what its records hold."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tcm_lab.codec import VariantConfig, load_checkpoint
from tcm_lab.reporting import render
from tcm_lab.study.compare import ranking_table
from tcm_lab.study.report import study_tables
from tcm_lab.study.result import open_result
from tcm_lab.study.summary import summarise
from tcm_lab.study.variants import Variants

STUDIES = Path(__file__).parents[2] / "studies"
MODELS = sorted(path.parent for path in STUDIES.glob("models/*/training.json"))


PUBLISHED = sorted(path.parent for path in STUDIES.rglob("records.jsonl"))
ABLATIONS = [
    path for path in PUBLISHED if (path / "ablation.csv").exists() and (path / "README.md").exists()
]
FULL = STUDIES / "full"


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: str(folder.relative_to(STUDIES)))
def test_a_studys_files_hold_what_its_records_say(folder: Path) -> None:
    study = open_result(folder)
    tables = study_tables(summarise(study.records, study.space), study.space)
    for name, table in tables.items():
        assert (folder / f"{name}.md").read_text() == render(table, "markdown")
        assert (folder / f"{name}.csv").read_text() == render(table, "csv")
    page = folder / "README.md"
    if page.exists():
        shown = tables.get("ablation", tables["table"])
        rows = [line for line in render(shown, "markdown").splitlines() if line[:1] == "|"]
        assert len(rows) > 4
        assert set(rows) <= set(page.read_text().splitlines())


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: str(folder.relative_to(STUDIES)))
def test_a_studys_trainings_are_those_that_its_space_asks_for(folder: Path) -> None:
    study = open_result(folder)
    budget, known = study.space.budget, Variants(study.space).fitting()
    seeds = Counter(record.fingerprint for record in study.records)
    certain = {variant.fingerprint for variant in known}
    if budget.trials is None:
        assert set(seeds) == certain
    else:  # a search: its baseline, and as many as it may train
        assert certain < set(seeds)
        assert len(seeds) == budget.trials
    assert {record.steps for record in study.records if record.state == "complete"} == {
        budget.steps
    }
    recipes = {budget.recipe_for(study.space.seed + seed) for seed in range(budget.seeds)}
    assert {record.recipe for record in study.records} == recipes
    if study.space.mode == "ablation":
        assert set(seeds.values()) == {budget.seeds} == {3}


@pytest.mark.parametrize("folder", [*ABLATIONS, FULL], ids=lambda folder: folder.name)
def test_a_pages_claims_are_figures_of_its_tables(folder: Path) -> None:
    page = (folder / "README.md").read_text().replace("\N{MINUS SIGN}", "-")
    result = page[page.index("**Result.**") : page.index("**Limits.**")]
    figures = [
        float(cell)
        for file in (folder / "table.csv", folder / "ablation.csv")
        if file.exists()
        for row in csv.reader(file.read_text().splitlines())
        for cell in row
        if number(cell)
    ]
    claimed = re.findall(r"[+-]\d+\.\d\d", result)
    assert len(claimed) >= 3
    for claim in claimed:
        assert any(abs(float(claim) - figure) < 0.0051 for figure in figures), claim


def test_what_the_readme_says_of_a_study_is_on_its_page() -> None:
    readme = (STUDIES.parent / "README.md").read_text()
    rows = re.findall(r"^(\|.*\| \[[a-z-]+\]\((studies/.*/README\.md)\) \|)$", readme, re.M)
    claims = 0
    for row, page in rows:
        figures = re.findall(r"[+\N{MINUS SIGN}]?\d[\d,]*\.\d+", row)
        told = (STUDIES.parent / page).read_text()
        assert [figure for figure in figures if figure not in told] == [], page
        claims += len(figures)
    assert claims >= 12


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_a_trained_model_is_small_loads_and_is_the_one_on_the_page(folder: Path) -> None:
    weights = folder / "model.safetensors"
    assert weights.stat().st_size < 4e6
    training = json.loads((folder / "training.json").read_text())
    assert load_checkpoint(weights).config == VariantConfig.parse(training["model"])
    row = f"| {folder.name} | {training['loss']:.3f} | {training['bpp']:.4f} | "
    assert row + f"{training['psnr_db']:.2f} |" in (STUDIES / "models/README.md").read_text()


def test_the_family_is_whole() -> None:
    assert [folder.name for folder in MODELS] == [
        "tcm-nano",
        "tcm-nano-conv-only",
        "tcm-nano-no-swatten",
        "tcm-nano-transformer-only",
    ]


def number(cell: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", cell) is not None


def test_the_page_of_the_speed_study_holds_what_was_measured() -> None:
    folder = STUDIES / "speed"
    page = (folder / "README.md").read_text()
    records = {r["name"]: r for r in json.loads((folder / "records.json").read_text())}
    timed = [record for record in records.values() if "plain_s" in record]
    assert len(timed) == 4
    for record in timed:
        row = f"| {record['median_s']:.2f} | {record['plain_s']:.2f} | **{record['ratio']:.2f}** |"
        assert row in page
        assert row in (folder / "table.md").read_text()
    training = records["test_a_training_step_is_faster_and_takes_no_more_memory"]
    turns = training["ratio_of_each_turn"]
    waits = "test_a_command_beside_the_import_of_torch"
    for claim in (
        f"between {turns[0]} and {turns[-1]} times",
        f"{training['peak_memory_mb']} MB against {training['plain_peak_memory_mb']} MB",
        f"{records[f'{waits}[import]']['over_torch_s']} s beyond",
        f"{records[f'{waits}[help]']['median_s']:.2f} s in all",
        f"{records['test_a_trial_costs_little_beside_its_training']['s_per_trial']} s beside",
        f"{records['test_all_counters_agree_beside_one_of_them']['median_s']:.1f} s, and",
        f"{records[f'{waits}[check]']['median_s']:.1f} s; a thousand",
        f"{records['test_a_thousand_random_variants_are_counted']['median_s']:.1f} s by formula",
    ):
        assert claim in " ".join(page.split()), claim


def test_what_the_full_study_says_of_its_front_and_its_steps_follows_from_its_records() -> None:
    page = " ".join((FULL / "README.md").read_text().split())
    study = open_result(FULL)
    summaries = summarise(study.records, study.space)
    front = {number: s for number, s in enumerate(summaries, 1) if s.on_front}
    assert list(front) == [17, 27, 32]
    for number, summary in front.items():
        assert re.search(rf"#{number} at {summary.metrics['kmacs_per_px']:.2f}\b", page)
        for axis, value in (("depth", 1), ("window", 4), ("hyper_window", 8), ("slices", 1)):
            assert summary.params[axis] == value
        assert summary.params["block"] == "tcm-sequential"
        assert summary.params["attention"] == "swatten"
        assert summary.intervals["lagrangian_percent"].low < 0
        assert summary.intervals["lagrangian_percent"].high > 0
    share = front[32].metrics["kmacs_per_px"] / summaries[0].figures["kmacs_per_px"]
    assert f"{share:.0%}".replace("%", " %") in page
    stopped = sum(record.state == "stopped" for record in study.records)
    first = sum(record.steps for record in study.records if record.seed == 0)
    whole = study.space.budget.steps * len(summaries)
    assert f"{stopped} of the {len(summaries)} were given up early" in page
    assert f"{first:,} steps instead of {whole:,}" in page
    assert f"further seeds {sum(record.steps for record in study.records):,}" in page


def test_the_page_of_the_rungs_study_holds_its_steps() -> None:
    folder = STUDIES / "rungs"
    page = (folder / "README.md").read_text()
    totals = {}
    for name, place in (("whole", folder / "whole"), ("rungs", folder)):
        study = open_result(place)
        stopped = sum(record.state == "stopped" for record in study.records)
        first = sum(record.steps for record in study.records if record.seed == 0)
        every = sum(record.steps for record in study.records)
        front = [s for s in summarise(study.records, study.space) if s.on_front]
        assert f"| {name} | 24 | {stopped} | {first:,} | {every:,} | {len(front)} |" in page
        totals[name] = (first, every, {summary.label for summary in front})
    first, every, front = totals["rungs"]
    first_whole, every_whole, front_whole = totals["whole"]
    assert f"{first / first_whole:.0%}".replace("%", " %") in page
    assert f"{every / every_whole:.0%}".replace("%", " %") in page
    assert front == front_whole


def test_what_the_rungs_study_says_of_its_first_seeds_follows_from_them() -> None:
    page = " ".join((STUDIES / "rungs" / "README.md").read_text().split())
    fronts = []
    for folder in (STUDIES / "rungs" / "whole", STUDIES / "rungs"):
        study = open_result(folder)
        firsts = [record for record in study.records if record.seed == 0]
        fronts.append({s.label: s for s in summarise(firsts, study.space) if s.on_front})
    whole, rungs = fronts
    assert (len(whole), len(rungs)) == (4, 3)
    (lost,) = set(whole) - set(rungs)
    assert lost == "split 0, depth 2, attention swatten, slices 4"
    best = min(s.metrics["lagrangian_percent"] for s in rungs.values())
    told = whole[lost].metrics["lagrangian_percent"]
    assert f"{best - told:.2f} points ({told:.2f} % against {best:.2f} %)" in page


def test_the_page_of_the_fidelity_study_says_what_three_budgets_do() -> None:
    folder = STUDIES / "fidelity"
    spec = importlib.util.spec_from_file_location("fidelity_study", folder / "make.py")
    assert spec is not None
    assert spec.loader is not None
    make: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    studies = make.studies()
    assert [study.space.budget.steps for study in studies.values()] == [30, 90, 300]
    table = ranking_table(studies)
    assert (folder / "ranking.md").read_text() == render(table, "markdown")
    assert (folder / "ranking.csv").read_text() == render(table, "csv")
    page = (folder / "README.md").read_text()
    assert {line for line in render(table, "markdown").splitlines() if line[:1] == "|"} <= set(
        page.splitlines()
    )
    taus: list[Any] = [row.values["tau"] for row in table.rows]
    assert max(tau.value for tau in taus) < 0.8
    places = [make.ranks(study) for study in studies.values()]
    for name in ("convolution alone", "no residual prediction"):
        assert max(place[name] for place in places) <= 5
    for name in ("transformer alone", "SWAtten in the main path"):
        assert min(place[name] for place in places) >= 12
    said = page.replace("\N{MINUS SIGN}", "-")
    for claim in re.findall(r"[+-]\d\.\d\d", said[said.index("**Result.**") :]):
        assert claim in render(table, "markdown")

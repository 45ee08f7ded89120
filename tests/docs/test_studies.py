"""What a study's page says is what its records hold, whenever and wherever they were made."""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tcm_lab.codec import VariantConfig, load_checkpoint
from tcm_lab.reporting import Table, render
from tcm_lab.study.compare import ranking_table
from tcm_lab.study.result import StudyResult, open_result
from tcm_lab.study.summary import summarise
from tcm_lab.study.tables import study_tables
from tcm_lab.study.variants import Variants

STUDIES = Path(__file__).parents[2] / "studies"
MODELS = sorted(path.parent for path in STUDIES.glob("models/*/training.json"))
PUBLISHED = sorted(path.parent for path in STUDIES.rglob("records.jsonl"))
PAGES = sorted(p for p in STUDIES.rglob("README.md") if any(p.parent.rglob("records.j*")))
NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?![\w.]*\w)")

NOT_CLAIMS = re.compile(r"\]\([^)]*\)|`[^`]*`|\b(19|20)\d\d\b|[A-Za-z]+ \d\.\d\.\d")
"""Addresses, code, years and versions."""

study_of = cache(open_result)


@cache
def tables_of(folder: Path) -> dict[str, Table]:
    study = study_of(folder)
    return study_tables(summarise(study.records, study.space), study.space)


def by_name(folder: Path) -> str:
    return str(folder.relative_to(STUDIES))


@pytest.mark.parametrize("folder", PUBLISHED, ids=by_name)
def test_a_studys_files_hold_what_its_records_say(folder: Path) -> None:
    tables = tables_of(folder)
    for name, table in tables.items():
        assert (folder / f"{name}.md").read_text() == render(table, "markdown")
        assert (folder / f"{name}.csv").read_text() == render(table, "csv")
    page = folder / "README.md"
    if page.exists():
        shown = render(tables.get("ablation", tables["table"]), "markdown")
        assert set(rows(shown)) <= set(rows(page.read_text()))


@pytest.mark.parametrize("folder", PUBLISHED, ids=by_name)
def test_a_studys_trainings_are_those_that_its_space_asks_for(folder: Path) -> None:
    study = study_of(folder)
    budget, known = study.space.budget, Variants(study.space).known()
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: by_name(page.parent))
def test_every_number_of_a_pages_result_is_in_its_records(page: Path) -> None:
    text = page.read_text().replace("\N{MINUS SIGN}", "-")
    start = text.find("**Result.**") if "**Result.**" in text else text.index("\n|")
    conditions, result = text[:start], text[start:].partition("**Limits.**")[0]
    known = {*written(conditions), *facts_of(page)}
    claims = NUMBER.findall(NOT_CLAIMS.sub("", result))
    assert claims
    assert [claim for claim in claims if not holds(claim, known)] == []


def holds(claim: str, known: Iterable[float]) -> bool:
    """Whether a number is known, to the digits that it is written with."""
    value = float(claim.replace(",", ""))
    half = 0.51 * 10 ** -len(claim.partition(".")[2])
    return any(min(abs(value - fact), abs(abs(value) - abs(fact))) <= half for fact in known)


def facts_of(page: Path) -> Iterator[float]:
    """Yield what the records behind a page say: those in its folder, and of studies it links to."""
    folder = page.parent
    linked = {(folder / link).resolve() for link in re.findall(r"\]\(([^)#]*)\)", page.read_text())}
    yield from (95.0, 0.0)  # the level of every interval, and what it must exclude
    for path in folder.glob("*.json"):
        yield from numbers_in(json.loads(path.read_text()))
    for path in folder.glob("*.md"):
        if path != page:
            yield from written(path.read_text())
    studies = [f for f in PUBLISHED if folder in (f, *f.parents) or f / "README.md" in linked]
    steps = []
    for each in studies:
        facts = list(facts_of_study(study_of(each)))
        yield from facts
        for table in tables_of(each).values():
            yield from written(render(table, "markdown"))
        steps.append((first_steps(study_of(each)), all_steps(study_of(each))))
    for first, every in steps:  # what one study took of another's steps
        yield from (100 * first / other for other, _ in steps)
        yield from (100 * every / other for _, other in steps)


def facts_of_study(study: StudyResult) -> Iterator[float]:
    steps = study.space.budget.steps or 0
    yield len({record.fingerprint for record in study.records})
    yield sum(record.state == "stopped" for record in study.records)
    yield first_steps(study)
    yield all_steps(study)
    yield steps * len({record.fingerprint for record in study.records})
    firsts = [record for record in study.records if record.seed == 0]
    for records in (study.records, firsts):
        baseline, *others = summarise(records, study.space)
        front = [s.metrics.get("lagrangian_percent", 0.0) for s in others if s.on_front]
        yield from front
        yield from (abs(a - b) for a in front for b in front)
        for summary in (baseline, *others):
            cost = summary.metrics["kmacs_per_px"] / baseline.metrics["kmacs_per_px"]
            yield from (100 * cost, 100 * (cost - 1))
            yield from (summary.metrics["kmacs_per_px"], summary.metrics["parameters"] / 1e6)


def first_steps(study: StudyResult) -> int:
    return sum(record.steps for record in study.records if record.seed == 0)


def all_steps(study: StudyResult) -> int:
    return sum(record.steps for record in study.records)


def written(text: str) -> list[float]:
    return [float(token.replace(",", "")) for token in NUMBER.findall(text)]


def numbers_in(tree: Any) -> Iterator[float]:
    if isinstance(tree, int | float):
        yield float(tree)
    elif isinstance(tree, dict | list):
        for each in tree.values() if isinstance(tree, dict) else tree:
            yield from numbers_in(each)


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line[:1] == "|"]


def test_what_the_readme_says_of_a_study_is_on_its_page() -> None:
    readme = (STUDIES.parent / "README.md").read_text()
    entries = re.findall(r"^(\|.*\| \[[a-z-]+\]\((studies/.*/README\.md)\) \|)$", readme, re.M)
    claims = 0
    for row, page in entries:
        numbers = re.findall(r"[+\N{MINUS SIGN}]?\d[\d,]*\.\d+", row)
        said = (STUDIES.parent / page).read_text()
        assert [number for number in numbers if number not in said] == [], page
        claims += len(numbers)
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


def test_the_page_of_the_fidelity_study_holds_the_ranking_of_its_studies() -> None:
    folder = STUDIES / "fidelity"
    table = ranking_table(script(folder / "make.py").studies())
    assert (folder / "ranking.md").read_text() == render(table, "markdown")
    assert (folder / "ranking.csv").read_text() == render(table, "csv")
    assert set(rows(render(table, "markdown"))) <= set(rows((folder / "README.md").read_text()))


def script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

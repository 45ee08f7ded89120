"""What a study's page says is what its records hold, whenever and wherever they were made."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from scripts import script

from tcm_lab.codec import VariantConfig, checkpoint_file, load_checkpoint, trained_names
from tcm_lab.data import open_images
from tcm_lab.evaluation import evaluate
from tcm_lab.reporting import Table, render
from tcm_lab.study.estimators import Comparison, Train
from tcm_lab.study.finalists import finalists_of
from tcm_lab.study.noise import design_in, noise_between
from tcm_lab.study.record import TrialRecord, baseline_of
from tcm_lab.study.report import study_tables
from tcm_lab.study.result import StudyResult, open_result
from tcm_lab.study.summary import noise_for, summarise
from tcm_lab.study.variants import Variants
from tcm_lab.training import read_recipe

STUDIES = Path(__file__).parents[2] / "studies"
PUBLISHED = sorted(path.parent for path in STUDIES.rglob("records.jsonl"))
OVERVIEW = STUDIES / "README.md"
KEPT = ("records.j*", "records/*/*.json", "trainings.jsonl")
PAGES = sorted(
    page
    for page in STUDIES.rglob("*/README.md")
    if any(file for kind in KEPT for file in page.parent.rglob(kind))
)
NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?![\w.]*\w)")

NOT_CLAIMS = re.compile(r"\]\([^)]*\)|`[^`]*`|\b(19|20)\d\d\b|[A-Za-z]+ \d\.\d\.\d")
"""Addresses, code, years and versions."""

study_of = cache(open_result)


@cache
def tables_of(folder: Path) -> dict[str, Table]:
    study = study_of(folder)
    summaries = summarise(study.records, study.space)
    return study_tables(summaries, study.space, finalists_of(study, summaries))


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
        name = next(n for n in ("ablation", "predicted", "table") if n in tables)
        shown = render(tables[name], "markdown")
        assert set(rows(shown)) <= set(rows(page.read_text()))


@pytest.mark.parametrize("folder", PUBLISHED, ids=by_name)
def test_a_studys_trainings_are_those_that_its_space_asks_for(folder: Path) -> None:
    study = study_of(folder)
    budget, known = study.space.budget, Variants(study.space).known()
    seeds = Counter(record.fingerprint for record in study.searched)
    certain = {variant.fingerprint for variant in known}
    if budget.trials is None:
        assert set(seeds) == certain
    else:  # a search: its baseline, and as many as it may train
        assert certain < set(seeds)
        assert len(seeds) == budget.trials
    codec = study.space.baseline
    recipes = {
        budget.recipe_for(study.space.seed + seed).suited(codec.latent_channels, budget.rate_levels)
        for seed in range(budget.seeds)
    }
    trained = trained_in(study)
    assert {record.steps for record in trained if record.state == "complete"} == {
        recipe.steps for recipe in recipes
    }
    assert {record.recipe for record in trained} == recipes
    if study.finalists:  # and the baseline
        assert len({record.fingerprint for record in trained}) == budget.finalists + 1
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
        yield from facts_in(each)
        for table in tables_of(each).values():
            yield from written(render(table, "markdown"))
        steps.append((first_steps(study_of(each)), all_steps(study_of(each))))
    for first, every in steps:  # what one study took of another's steps
        yield from (100 * first / other for other, _ in steps)
        yield from (100 * every / other for _, other in steps)


def trained_in(study: StudyResult) -> tuple[TrialRecord, ...]:
    """Return the records of what was trained: all, or a search's finalists."""
    return study.finalists or study.searched


@cache
def facts_in(folder: Path) -> tuple[float, ...]:
    return tuple(facts_of_study(study_of(folder)))


def facts_of_study(study: StudyResult) -> Iterator[float]:
    steps = study.space.budget.recipe_for(study.space.seed).steps
    trained = trained_in(study)
    space = study.space.model_copy(update={"estimator": trained[0].estimator})
    images, base = len(trained[0].evaluation.points[0].images), baseline_of(trained)
    for noise in {noise_between(record, base) for record in trained} - {None}:
        yield from (noise.seed_sd, noise.image_sd)  # what the budget resolves
        yield noise.resolution(study.space.budget.seeds, images)
    yield len({record.fingerprint for record in study.records})
    yield sum(record.state == "stopped" for record in study.records)
    yield first_steps(study)
    yield all_steps(study)
    yield steps * len({record.fingerprint for record in study.records})
    yield from differences_in(study)
    firsts = [record for record in trained if record.seed == 0]
    for records in (trained, firsts):
        baseline, *others = summarise(records, space)
        front = [s.metrics.get("lagrangian_percent", 0.0) for s in others if s.on_front]
        yield from front
        yield from (abs(a - b) for a in front for b in front)
        for summary in (baseline, *others):
            cost = summary.metrics["kmacs_per_px"] / baseline.metrics["kmacs_per_px"]
            yield from (100 * cost, 100 * (cost - 1))
            yield from (summary.metrics["kmacs_per_px"], summary.metrics["parameters"] / 1e6)


def differences_in(study: StudyResult) -> Iterator[float]:
    """Yield the difference of every two variants that were trained alike, with its interval."""
    groups: dict[str, list[TrialRecord]] = {}
    for record in sorted(trained_in(study), key=lambda record: record.seed):
        groups.setdefault(record.fingerprint, []).append(record)
    whole = [
        g for g in groups.values() if [r.seed for r in g if r.state == "complete"] == [0, 1, 2]
    ]
    design = design_in(study.space)
    for one, other in permutations(whole, 2):
        noise = noise_for(one, other, design=design)
        found = Train().difference(Comparison(one, other, noise=noise))
        yield from (found.value, found.low, found.high)


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


def test_what_the_overview_says_of_a_study_is_on_its_page() -> None:
    overview = OVERVIEW.read_text()
    entries = re.findall(r"^(\|.*\| \[[a-z-]+\]\(([a-z-]+/README\.md)\) \|)$", overview, re.M)
    claims = 0
    for row, page in entries:
        numbers = re.findall(r"[+\N{MINUS SIGN}]?\d[\d,]*\.\d+", row)
        said = (STUDIES / page).read_text()
        assert [number for number in numbers if number not in said] == [], page
        claims += len(numbers)
    assert claims >= 12


def test_what_the_readme_says_of_a_study_is_in_the_overview() -> None:
    readme = (STUDIES.parent / "README.md").read_text()
    shown = [row for row in rows(readme) if re.search(r"\]\(studies/[a-z-]+/README\.md\) \|$", row)]
    assert shown
    assert {row.replace("(studies/", "(") for row in shown} <= set(rows(OVERVIEW.read_text()))


@pytest.mark.parametrize("name", trained_names())
def test_a_trained_codecs_card_says_what_its_weights_and_records_hold(name: str) -> None:
    weights, cards = checkpoint_file(name), script(STUDIES / "models" / "make.py")
    training, codec = cards.training_of(name), load_checkpoint(name)
    assert codec.config == VariantConfig.parse(training.model)
    assert read_recipe(name) == training.recipe
    assert weights.with_name("README.md").read_text(encoding="utf-8") == cards.card(name)


@pytest.mark.parametrize("name", trained_names())
def test_the_curve_on_a_card_is_that_of_its_weights(name: str) -> None:
    """One image is coded again; machines differ in a latent's last bits, hardly in its rate."""
    (record, *_) = script(STUDIES / "models" / "make.py").records_of(
        checkpoint_file(name).with_name("rd.json")
    )
    images, point = open_images(None, "eval"), record.points[0]
    i = min(range(len(images)), key=lambda i: point.images[i].height * point.images[i].width)
    again = evaluate(load_checkpoint(name), images[i : i + 1], rates=[point.rate]).points[0]
    assert again.images[0].name == point.images[i].name
    assert again.bpp == pytest.approx(point.images[i].bpp, rel=0.005)
    assert again.psnr_db == pytest.approx(point.images[i].psnr_db, abs=0.02)


def test_the_page_of_the_family_is_that_of_its_records() -> None:
    cards = script(STUDIES / "models" / "make.py")
    assert cards.PAGE.read_text(encoding="utf-8") == cards.page()


def test_the_family_is_whole_and_small_enough_to_be_in_the_wheel() -> None:
    sizes = {name: checkpoint_file(name).stat().st_size for name in trained_names()}
    assert sum(sizes.values()) < 15e6
    assert list(sizes) == [
        "tcm-nano",
        "tcm-nano-conv-only",
        "tcm-nano-no-swatten",
        "tcm-nano-transformer-only",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "estimators/make.py",
        "fidelity/make.py",
        "fidelity/machines.py",
        "fidelity/sharing.py",
        "start/make.py",
    ],
)
def test_the_page_of_a_study_of_studies_holds_what_the_records_say(name: str) -> None:
    folder = (STUDIES / name).parent
    page = rows((folder / "README.md").read_text())
    for stem, table in script(STUDIES / name).tables().items():
        shown = render(table, "markdown")
        assert (folder / f"{stem}.md").read_text() == shown
        assert (folder / f"{stem}.csv").read_text() == render(table, "csv")
        assert set(rows(shown)) <= set(page)

"""The report: figures that follow from the records, files that others can read."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from optuna._hypervolume import compute_hypervolume
from PIL import Image
from scipy.stats import f_oneway
from surrogate import SPACE, Surrogate, curve

from tcm_lab.cli import main
from tcm_lab.codec import VariantConfig, load_config
from tcm_lab.data import open_images
from tcm_lab.errors import LabError
from tcm_lab.evaluation import RdCurve, RdRecord, bd_rate, lagrangian_percent, rate_percents
from tcm_lab.metrics import METRICS
from tcm_lab.stats import IncompleteInterval
from tcm_lab.study import decoded, noise, report
from tcm_lab.study.axes import show
from tcm_lab.study.compare import compare_studies
from tcm_lab.study.estimators import Train
from tcm_lab.study.folder import file_names
from tcm_lab.study.importance import (
    _unexplained,
    hypervolume,
    hypervolume_history,
    importance_table,
    interactions,
    main_effects,
    reference_point,
)
from tcm_lab.study.noise import Noise, design_in, design_of
from tcm_lab.study.prepare import prepare
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.report import anchor_findings, findings, front_configs, write_report
from tcm_lab.study.result import StudyResult, measure_anchor, open_result, read_anchor
from tcm_lab.study.run import run_study
from tcm_lab.study.space import parse_space
from tcm_lab.study.summary import VariantSummary, summarise
from tcm_lab.study.tables import trial_table

COMMAND = "tcm-lab study --space toy.yaml"
STUDIES = Path(__file__).parents[2] / "studies"


def read_page(folder: Path) -> str:
    """Return a report without its copy of Vega, which holds addresses and elements of its own."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    without, number = re.subn(r"<script>(?!\n).*?</script>", "", page, flags=re.DOTALL)
    assert number == 1
    return without


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    folder = tmp_path_factory.mktemp("study")
    space = parse_space(SPACE, "toy.yaml", None)
    found = run_study(prepare(space, out=folder / "toy", trainer=Surrogate(folder / "log")), 1)
    write_report(found, COMMAND)
    return found


def test_the_table_holds_what_was_counted_and_measured(result: StudyResult) -> None:
    rows = list(csv.DictReader(io.StringIO((result.out / "table.csv").read_text())))
    assert len(rows) == 5
    records = {record.label: record for record in result.records}
    for row in rows:
        record = records.pop(row["variant"].rstrip(" ★†"))
        assert int(row["parameters"]) == record.complexity.total_parameters
        assert float(row["kmacs_per_px"]) == pytest.approx(record.complexity.kmacs_per_px, 1e-6)
        assert float(row["bpp"]) == pytest.approx(sum(record.rd.bpp) / 4, rel=1e-6)
        assert float(row["psnr_db"]) == pytest.approx(sum(record.rd.psnr_db) / 4, rel=1e-6)


def test_figures_against_the_baseline_are_those_of_the_curves(result: StudyResult) -> None:
    baseline, *others = summarise(result.records, result.space)
    assert baseline.is_baseline
    assert baseline.metrics["lagrangian_percent"] == 0
    anchor = baseline.records[0].rd
    for summary in others:
        rd, lambdas = summary.records[0].rd, summary.records[0].lambdas
        told = summary.metrics
        assert told["lagrangian_percent"] == pytest.approx(
            lagrangian_percent(anchor, rd, lambdas=lambdas)
        )
        assert told["bd_rate_percent"] == pytest.approx(bd_rate(anchor.curve(), rd.curve()).percent)
        interval = summary.intervals["lagrangian_percent"]
        assert interval.low <= interval.value <= interval.high


def test_the_front_is_what_no_variant_beats_in_both_objectives(result: StudyResult) -> None:
    summaries = summarise(result.records, result.space)
    points = {
        s.label: (s.metrics["lagrangian_percent"], s.metrics["kmacs_per_px"]) for s in summaries
    }
    expected = {
        label
        for label, (a, b) in points.items()
        if not any(x <= a and y <= b and (x, y) != (a, b) for x, y in points.values())
    }
    assert {s.label for s in summaries if s.on_front} == expected == {"split 0.5", "split 0.75"}


def test_what_a_user_keeps_beside_the_front_stays_there(result: StudyResult) -> None:
    front = result.out / "front"
    before = {path.name: path.read_bytes() for path in front.iterdir()}
    (front / "mine.yaml").write_text("base: tcm-nano\n")
    (front / "of-an-earlier-report.yaml").write_bytes(next(iter(before.values())))
    write_report(result, COMMAND)
    assert {path.name for path in front.iterdir()} == {*before, "mine.yaml"}
    (front / "mine.yaml").unlink()


def test_every_chosen_variant_is_ready_to_train(result: StudyResult) -> None:
    files = sorted((result.out / "front").glob("*.yaml"))
    prints = {load_config(file).fingerprint for file in files}
    summaries = summarise(result.records, result.space)
    assert prints == {s.records[0].fingerprint for s in summaries if s.on_front}
    assert [file.name for file in files] == ["split-0.5.yaml", "split-0.75.yaml"]


def test_labels_in_any_script_are_files_of_their_own(result: StudyResult) -> None:
    labels = ["\u5c0f", "\u5927", "wide", "wide!", "-"]
    front = [
        summary.model_copy(
            update={
                "on_front": True,
                "records": (summary.first.model_copy(update={"label": label}),),
            }
        )
        for label, summary in zip(labels, summarise(result.records, result.space), strict=True)
    ]
    configs = front_configs(front, result.space)
    assert len(configs) == len(labels)
    for (name, text), summary in zip(configs.items(), front, strict=True):
        assert not name.startswith(".")
        assert f"# {summary.label}\n" in text
        assert VariantConfig.parse(yaml.safe_load(text)).fingerprint == summary.first.fingerprint


def test_file_names_differ_where_names_do() -> None:
    names = [
        "kodim01.png",
        "\u5199\u771f.png",
        "\u98a8\u666f.png",
        "a b.png",
        "a_b.png",
        "..",
        "a" * 999,
    ]
    found = file_names(names)
    assert found[0] == "kodim01.png"
    assert len({name.lower() for name in found}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,200}", name) for name in found)


def test_a_decoded_image_is_shown_beside_its_own_original_whatever_its_name(
    result: StudyResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    colours = {"\u5199.png": (200, 0, 0), "\u98a8.png": (0, 0, 200)}
    for name, colour in colours.items():
        Image.new("RGB", (64, 64), colour).save(tmp_path / name)
    images = open_images(tmp_path, "eval")
    records = []
    for record in result.records:
        points = [
            point.model_copy(
                update={
                    "images": tuple(
                        image.model_copy(update={"name": name})
                        for image, name in zip(point.images, images.names, strict=False)
                    )
                }
            )
            for point in record.rd.points
        ]
        rd = record.rd.model_copy(update={"points": tuple(points)})
        records.append(record.model_copy(update={"rd": rd}))
    found = replace(result, out=tmp_path, records=tuple(records))
    monkeypatch.setattr(decoded, "_weights", lambda out, record: tmp_path)
    monkeypatch.setattr(decoded, "load_checkpoint", lambda path: None)
    same = lambda codec, pixels, rate: SimpleNamespace(x_hat=pixels[None])  # noqa: E731
    monkeypatch.setattr(decoded, "code_image", same)
    decoded.decode_front(found, images)
    shown = decoded.comparisons(found, summarise(found.records, found.space))
    assert len(shown) == 2
    for name, comparison in zip(images.names, shown, strict=True):
        for image in comparison.images:
            pixels = np.asarray(Image.open(io.BytesIO(image.data)).convert("RGB"))
            assert np.abs(pixels.mean((0, 1)) - colours[name]).max() < 10


def test_variants_with_long_labels_go_by_their_rows(result: StudyResult) -> None:
    summaries = summarise(result.records, result.space)
    space = result.space
    assert [s.name for s in summaries] == [s.label for s in summaries]
    assert "number" not in [c.key for c in trial_table(summaries, space).columns]
    long = summarise(
        [r.model_copy(update={"label": f"{r.label}, " + 40 * "x"}) for r in result.records], space
    )
    rows = trial_table(long, space).rows
    assert [row.values["number"] for row in rows] == [1, 2, 3, 4, 5]
    assert [s.name for s in long] == ["#1", "#2", "#3", "#4", "#5"]
    (base,) = [r.params["split"] for r in result.records if r.is_baseline]
    assert [row.values["variant"] for row in rows] == [
        space.baseline.name if s.is_baseline else f"split {base:g} → {s.first.params['split']:g}"
        for s in long
    ]
    chosen = front_configs(long, space)
    assert len(chosen) == sum(summary.on_front for summary in summaries) > 0
    for number, summary in enumerate(long, 1):
        assert (f"variant-{number}.yaml" in chosen) == summary.on_front
        if summary.on_front:
            told = chosen[f"variant-{number}.yaml"]
            assert told.startswith(f"# {summary.label}\n")
            assert VariantConfig.parse(yaml.safe_load(told)) == summary.records[0].variant


def test_a_comparison_that_no_variant_has_is_no_column_but_a_line(result: StudyResult) -> None:
    baseline, *others = summarise(result.records, result.space)
    bare = [
        summary.model_copy(
            update={
                field: {k: v for k, v in getattr(summary, field).items() if k != "bd_rate_percent"}
                for field in ("metrics", "intervals")
            }
        )
        for summary in others
    ]
    estimated = [
        summary.model_copy(
            update={"records": tuple(r.model_copy(update={"rd": None}) for r in summary.records)}
        )
        for summary in bare
    ]
    assert "bd_rate_percent" in baseline.metrics
    needs = "A BD-rate needs"
    for rest, has_column, says in (
        (estimated, False, []),
        (others, True, []),
        ([*others[:2], *bare[2:]], True, ["a dash marks those that do not."]),
        (bare, False, ["no variant here has one."]),
    ):
        table = trial_table([baseline, *rest], result.space)
        keys = [column.key for column in table.columns]
        assert ("bd_rate_percent" in keys) == has_column
        assert "lagrangian_percent" in keys
        assert [line.split(": ")[1] for line in table.footer if line.startswith(needs)] == says


def test_the_same_records_give_the_same_bytes(result: StudyResult, tmp_path: Path) -> None:
    names = [
        p for p in result.out.iterdir() if p.suffix in (".md", ".csv", ".tex", ".svg", ".html")
    ]
    before = {path: path.read_bytes() for path in [*names, result.out / "pareto.png"]}
    write_report(open_result(result.out), COMMAND)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len(before) >= 9


def test_the_page_needs_nothing_beside_it_and_tells_how_it_was_made(result: StudyResult) -> None:
    page = read_page(result.out)
    assert "http" not in page.replace("http-equiv", "")
    assert COMMAND in page
    assert page.count("<svg") >= 2
    assert "split 0.75" in page
    assert page.count("<table") == page.count('<div class="scroll"') == 2  # none widens a phone
    assert '<meta name="viewport" content="width=device-width' in page


def test_the_space_in_the_folder_makes_the_study_again(result: StudyResult) -> None:
    from tcm_lab.study.space import load_space

    assert load_space(result.out / "space.yaml") == result.space


def test_records_survive_the_database_to_the_last_digit(result: StudyResult) -> None:
    assert open_result(result.out).records == result.records
    own = next((result.out / "trials").glob("*/record.json"))
    identity = json.loads(own.read_text())["identity"]
    assert own.parent.name == identity


def test_a_published_study_is_drawn_again_from_its_space_and_records(
    result: StudyResult, tmp_path: Path
) -> None:
    for name in ("space.yaml", "records.jsonl"):
        shutil.copy(result.out / name, tmp_path)
    found = open_result(tmp_path)
    assert (found.space, found.records) == (result.space, result.records)
    write_report(found, COMMAND)
    for drawn in ("table.csv", "rates.md", "pareto.svg", "rd.png", "report.html", "records.jsonl"):
        assert (tmp_path / drawn).read_bytes() == (result.out / drawn).read_bytes()


def test_a_frame_compares_each_training_with_the_baselines_of_its_seed_and_kind(
    result: StudyResult,
) -> None:
    seeds = [
        record.model_copy(
            update={"seed": seed, "rd": curve(record.variant, bonus=0.3 * seed * record.number)}
        )
        for seed in (0, 1)
        for record in result.records
    ]
    shorter = [r.model_copy(update={"estimator": Train(steps=20)}) for r in seeds]
    records = (*shorter, *(r.model_copy(update={"rd": curve(r.variant)}) for r in seeds))
    frame = replace(result, records=records).to_frame()
    for record, percent in zip(records, frame["lagrangian_percent"], strict=True):
        (base,) = (
            r
            for r in records
            if (r.is_baseline, r.seed, r.estimator) == (True, record.seed, record.estimator)
        )
        assert percent == record.lagrangian_percent(base)


def test_a_spoilt_record_is_named_by_its_line(result: StudyResult, tmp_path: Path) -> None:
    shutil.copy(result.out / "space.yaml", tmp_path)
    lines = (result.out / "records.jsonl").read_text().splitlines()
    lines[2] = lines[2].replace('"seed":0', '"seed":"first"')
    (tmp_path / "records.jsonl").write_text("\n".join(lines))
    with pytest.raises(LabError, match=r"records\.jsonl, line 3: .*seed.*integer"):
        open_result(tmp_path)


def test_records_that_are_no_text_are_named_and_odd_letters_in_a_label_end_none(
    result: StudyResult, tmp_path: Path
) -> None:
    shutil.copy(result.out / "space.yaml", tmp_path)
    label = "\u2028\x85"  # which end a line of text, but none of JSON Lines
    odd = [record.model_copy(update={"label": label}) for record in result.records]
    path = tmp_path / "records.jsonl"
    path.write_text("".join(f"{record.model_dump_json()}\n" for record in odd), encoding="utf-8")
    assert open_result(tmp_path).records == tuple(odd)
    path.write_bytes(path.read_bytes().replace(b'"number":1', b'"number":\xff'))
    with pytest.raises(LabError, match=r"records\.jsonl, line \d: not UTF-8"):
        open_result(tmp_path)


def test_an_ablation_tells_each_change_against_the_baseline(tmp_path: Path) -> None:
    text = SPACE.replace("sampler: grid", "mode: ablation")
    space = parse_space(text, "toy.yaml", None)
    found = run_study(prepare(space, out=tmp_path / "toy", trainer=Surrogate(tmp_path / "log")), 1)
    write_report(found, COMMAND)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "toy" / "ablation.csv").read_text())))
    assert rows[0]["change"].startswith("none")
    assert rows[1]["change"].startswith("split 0.5 → 0")
    baseline, other = (record.complexity for record in found.records[:2])
    change = other.total_parameters - baseline.total_parameters
    assert float(rows[1]["parameters_change"]) == change
    page = read_page(tmp_path / "toy")
    assert page.count("<svg") == 3
    summaries = summarise(found.records, space)
    names = [summary.name for summary in summaries]
    assert names == ["tcm-nano", *(f"split 0.5 → {share}" for share in ("0", "0.25", "0.75", "1"))]
    assert set(front_configs(summaries, space)) == {
        f"split-{s.first.params['split']}.yaml" for s in summaries if s.on_front
    }
    drawn = (tmp_path / "toy" / "ablation.svg").read_bytes()
    assert drawn.startswith(b"<?xml")


@pytest.mark.parametrize(
    ("percents", "words"),
    [
        ((-44.1, -29.7), "their lowest rate the variants need 29.7 to 44.1 % fewer bits"),
        ((3.0, 5.5), "their lowest rate the variants need 3.0 to 5.5 % more bits"),
        ((-2.0, 5.5), "their lowest rate the variants need 2.0 % fewer to 5.5 % more bits"),
        ((3.0, 3.0), "their lowest rate the variants need 3.0 % more bits"),
    ],
)
def test_how_many_bits_variants_need_is_said_in_words(
    result: StudyResult,
    monkeypatch: pytest.MonkeyPatch,
    percents: tuple[float, float],
    words: str,
) -> None:
    records = [
        record.model_copy(
            update={"rd": record.rd.model_copy(update={"points": record.rd.points[:1]})}
        )
        for record in result.records
    ]
    summaries = summarise(result.records, result.space)
    summaries = [
        summary.model_copy(update={"records": (record,)})
        for summary, record in zip(summaries, records, strict=True)
    ]
    ends = itertools.cycle(percents)
    monkeypatch.setattr(report, "rate_percents", lambda jpeg, own: (next(ends),))
    monkeypatch.setattr(VariantSummary, "payload_curve", None)
    anchor = SimpleNamespace(curve=lambda counted: None)
    (said,) = anchor_findings(summaries, anchor)
    assert f"At {words} than JPEG" in said


def test_an_ablation_of_which_only_the_baseline_is_trained_has_a_report(tmp_path: Path) -> None:
    shutil.copy(STUDIES / "split" / "space.yaml", tmp_path)
    lines = (STUDIES / "split" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    alone = [line for line in lines if json.loads(line)["is_baseline"]]
    (tmp_path / "records.jsonl").write_text("\n".join(alone), encoding="utf-8")
    found = open_result(tmp_path)
    assert found.space.mode == "ablation"
    summary = write_report(found, COMMAND)
    files = {path.name for path in summary.files["Plots"]}
    assert "1 variant of tcm-nano trained" in summary.findings[0]
    assert not any("codes better" in text for text in summary.findings)
    assert {"pareto.png", "rd.png"} <= files
    assert "ablation.png" not in files
    read_page(tmp_path)


def test_several_seeds_are_one_row_with_their_mean(tmp_path: Path) -> None:
    space = parse_space(SPACE.replace("40", "40, seeds: 2"), "toy.yaml", None)
    trainer = Surrogate(tmp_path / "log", seed_noise=0.05)
    found = run_study(prepare(space, out=tmp_path / "toy", trainer=trainer), 1)
    summary = next(s for s in summarise(found.records, space) if s.label == "split 0.75")
    config = summary.records[0].variant
    means = [
        sum(curve(config, bonus=bonus).points[0].psnr_db for bonus in (0.0, 0.05)) / 2,
        sum(record.rd.points[0].psnr_db for record in summary.records) / 2,
    ]
    assert means[0] == pytest.approx(means[1])
    write_report(found, COMMAND)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "toy" / "table.csv").read_text())))
    assert {row["variant"].split(" ★")[0].split(" †")[0]: row["seeds"] for row in rows}[
        "split 0.75"
    ] == "2"


def test_several_trainings_on_one_side_do_not_say_how_the_other_varies(tmp_path: Path) -> None:
    space = parse_space(SPACE.replace("40", "40, seeds: 2"), "toy.yaml", None)
    trainer = Surrogate(tmp_path / "log", seed_noise=0.05)
    found = run_study(prepare(space, out=tmp_path / "toy", trainer=trainer), 1)
    once = [record for record in found.records if not (record.is_baseline and record.seed)]
    for records, is_incomplete in ((found.records, False), (once, True)):
        twice = next(s for s in summarise(records, space) if s.label == "split 0.75")
        assert len(twice.records) == 2
        interval = twice.intervals["lagrangian_percent"]
        assert interval.noise > 0
        assert isinstance(interval, IncompleteInterval) == is_incomplete


def test_a_variant_with_fewer_seeds_than_the_baseline_shares_no_letter_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = parse_space(SPACE.replace("40", "40, seeds: 2"), "toy.yaml", None)
    found = run_study(prepare(space, out=tmp_path / "toy", trainer=Surrogate(tmp_path / "log")), 1)
    base = space.baseline
    known = Noise(
        recipe="scratch", steps=40, base=base.name, design=design_in(space),
        variants=4, seeds=3, images=24, freedom=8, seed_sd=0.001, image_sd=0.5, spread=1.0,
    )  # fmt: skip
    monkeypatch.setattr(noise, "known_noise", lambda: (known,))
    once = [record for record in found.records if record.is_baseline or record.seed == 0]
    baseline, *others = summarise(once, space)
    assert (len(baseline.records), {len(s.records) for s in others}) == (2, {1})
    for other in others:
        differs = other.intervals["lagrangian_percent"].excludes_zero
        assert differs == (not set(other.group) & set(baseline.group)), other.label
    assert any(other.intervals["lagrangian_percent"].excludes_zero for other in others)


def test_a_time_that_was_measured_lower_establishes_nothing(result: StudyResult) -> None:
    space = result.space.model_copy(update={"objectives": ("lagrangian_percent", "decode_ms")})
    timed = []
    for number, record in enumerate(result.records):
        ms = 100.0 - number
        timing = SimpleNamespace(encode_ms=ms, decode_ms=ms)
        timed.append(record.model_copy(update={"timing": timing}))
    baseline, *others = summarise(timed, space)
    assert all(s.metrics["decode_ms"] < baseline.metrics["decode_ms"] for s in others)
    for other in others:
        interval = other.intervals["lagrangian_percent"]
        assert other.is_established == (interval.excludes_zero and interval.value < 0)


def test_runs_that_were_trained_on_different_machines_are_said_to_pair_less_exactly() -> None:
    published = open_result(STUDIES / "split")
    space = published.space

    def lines(records: list[TrialRecord]) -> list[str]:
        footer = trial_table(summarise(records, space), space).footer
        return [line for line in footer if line.startswith("Training ran under")]

    *others, last = published.records
    assert lines([*others, last]) == []
    assert last.training is not None
    elsewhere = last.training.environment.model_copy(update={"instructions": "AVX2"})
    moved = last.training.model_copy(update={"environment": elsewhere})
    (line,) = lines([*others, last.model_copy(update={"training": moved})])
    assert "pair less exactly" in line


def test_noise_of_another_baseline_does_not_stand_for_seeds(
    result: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    summaries = summarise(result.records, result.space)
    own = result.space.baseline
    other = own.override({"g_a.depth": 1})  # of the same name
    for base, is_limited in ((own, False), (other, True)):
        design = design_of(base.model_dump(mode="json"))
        known = Noise(
            recipe="scratch", steps=40, base=base.name, design=design,
            variants=4, seeds=3, images=24, freedom=8, seed_sd=0.3, image_sd=0.5, spread=1.0,
        )  # fmt: skip
        monkeypatch.setattr(noise, "known_noise", lambda known=known: (known,))
        limits = findings(summaries, result.space)[-1]
        assert ("with one seed each" in limits) == is_limited


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        LabError, match=r"no study \(neither study.db nor space.yaml with records.jsonl\)"
    ):
        open_result(tmp_path)


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
def test_hypervolume_agrees_with_optunas(dimensions: int) -> None:
    import numpy as np

    rng = np.random.default_rng(dimensions)
    for count in (1, 2, 7, 15):
        points = rng.random((count, dimensions))
        reference = np.full(dimensions, 0.9)
        inside = points[(points < reference).all(axis=1)]
        expected = compute_hypervolume(inside, reference) if len(inside) else 0.0
        found = hypervolume(points.tolist(), reference.tolist())
        assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12)


MANY = """
name: many
base: tcm-nano
axes:
  split: {path: "g_*.split", choices: [0.0, 0.5, 1.0]}
  slices: {path: entropy_model.slices, choices: [1, 4, 8]}
  window: {path: "g_*.window_size", choices: [4, 8]}
sampler: grid
budget: {recipe: scratch, steps: 40, rate_levels: 4}
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    folder = tmp_path_factory.mktemp("many")
    space = parse_space(MANY, "many.yaml", None)
    return run_study(prepare(space, out=folder / "many", trainer=Surrogate(folder / "log")), 1)


def test_main_effects_are_means_over_the_variants_with_a_value(many: StudyResult) -> None:
    effects = {
        axis: dict(values) for axis, values in main_effects(many.records, many.space).items()
    }
    baseline = next(r for r in many.records if r.is_baseline)
    with_eight = [r for r in many.records if r.params["slices"] == 8]
    expected = [lagrangian_percent(baseline.rd, r.rd, lambdas=r.lambdas) for r in with_eight]
    assert sorted(effects["slices"]["8"]) == sorted(expected)
    assert [len(costs) for costs in effects["split"].values()] == [6, 6, 6]


def test_importance_is_the_share_of_variance_that_an_analysis_of_variance_finds(
    many: StudyResult,
) -> None:
    table = importance_table(many.records, many.space)
    baseline = next(r for r in many.records if r.is_baseline)
    measured = {
        "lagrangian_percent": [
            lagrangian_percent(baseline.rd, r.rd, lambdas=r.lambdas) for r in many.records
        ],
        "kmacs_per_px": [r.complexity.kmacs_per_px for r in many.records],
    }
    shares = [row.values["lagrangian_percent"] for row in table.rows]
    assert shares == sorted(shares, reverse=True)
    assert {row.values["axis"] for row in table.rows} == set(many.space.axes)
    for row in table.rows:
        keys = [record.params[row.values["axis"]] for record in many.records]
        for name, values in measured.items():
            groups = [[v for k, v in zip(keys, values, strict=True) if k == key] for key in {*keys}]
            between, within = len(groups) - 1, len(keys) - len(groups)
            ratio = f_oneway(*groups).statistic * between / within
            adjusted = 1 - (1 - ratio / (1 + ratio)) * (len(keys) - 1) / within
            assert row.values[name] == pytest.approx(max(adjusted, 0), abs=1e-9)


def test_an_axis_without_effect_is_not_important_even_if_each_trial_has_a_value_of_its_own(
    many: StudyResult,
) -> None:
    text = MANY.replace("split: {", "split: {kind: float, ").replace(
        "choices: [0.0, 0.5, 1.0]", "low: 0, high: 1"
    )
    text = text.replace("sampler: grid", "sampler: random").replace("40,", "40, trials: 18,")
    space = parse_space(text, "many.yaml", None)
    rng = np.random.default_rng(0)
    for axis, others in (("split", ("slices", "window")), ("slices", ("split", "window"))):
        found = []
        for _ in range(20):
            records = []
            for record in many.records:
                params = {
                    "split": float(rng.random()),
                    "slices": int(rng.choice([1, 4, 8])),
                    "window": int(rng.choice([4, 8])),
                }
                effect = {"split": params["split"], "slices": params["slices"] / 8}[axis]
                complexity = SimpleNamespace(kmacs_per_px=effect + 0.01 * rng.normal())
                changed = {"params": params, "complexity": complexity}
                records.append(record.model_copy(update=changed))
            rows = importance_table(records, space).rows
            found.append({row.values["axis"]: row.values["kmacs_per_px"] for row in rows})
        means = {name: np.mean([each[name] for each in found]) for name in space.axes}
        assert means[axis] > 0.8
        assert all(means[other] < 0.15 for other in others)


def test_an_objective_in_which_all_tie_is_shared_out_among_no_axes(many: StudyResult) -> None:
    base = next(r for r in many.records if r.is_baseline)
    tied = [record.model_copy(update={"rd": base.rd}) for record in many.records]
    rows = [row.values for row in importance_table(tied, many.space).rows]
    assert [row["lagrangian_percent"] for row in rows] == [None] * 3
    assert max(row["kmacs_per_px"] for row in rows) > 0.5


def test_the_hypervolume_grows_to_the_whole(many: StudyResult) -> None:
    shares = [share for _, share in hypervolume_history(many.records, many.space)]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


def test_each_step_of_the_growth_is_that_of_the_trainings_so_far(many: StudyResult) -> None:
    rng = np.random.default_rng(0)
    objectives = ("kmacs_per_px", "encode_kmacs_per_px", "decode_kmacs_per_px", "parameters")
    space = many.space.model_copy(update={"objectives": objectives})
    records = []
    for record in many.records:
        values = rng.integers(0, 6, 4).tolist()
        names = (*objectives[:3], "total_parameters")
        counted = SimpleNamespace(**dict(zip(names, values, strict=True)))
        records.append(record.model_copy(update={"complexity": counted}))
    records.sort(key=lambda record: record.number)
    points = [[METRICS[name].of(record) for name in objectives] for record in records]
    reference = reference_point(points)
    volumes = [
        compute_hypervolume(np.array(points[: n + 1], dtype=float), np.array(reference))
        for n in range(len(points))
    ]
    found = hypervolume_history(records, space)
    expected = [volume / volumes[-1] for volume in volumes]
    assert [share for _, share in found] == pytest.approx(expected)


def test_the_strongest_interaction_is_first_though_cells_are_missing(many: StudyResult) -> None:
    axes = {"split": (0.0, 0.5, 1.0), "slices": (1, 4, 8), "window": (4, 8)}
    records = []
    for record in many.records:
        place = {name: values.index(record.params[name]) for name, values in axes.items()}
        if place["slices"] == 0 and place["split"] == 0:
            continue  # an unbalanced table of split and slices, which add up
        together = 0.5 * (place["slices"] == 1) * place["window"]
        bits = 10 * place["split"] + 30 * place["slices"] + together
        rd = SimpleNamespace(bpp=(float(bits),))
        records.append(record.model_copy(update={"rd": rd}))
    space = many.space.model_copy(update={"objectives": ("bpp", "kmacs_per_px")})
    assert space.quality.name == "bpp"
    first, *_ = interactions(records, space)
    assert first[:2] == ("slices", "window")
    cells = {(a, b): 10 * a + 30 * b for a in range(3) for b in range(3) if a or b}
    assert _unexplained(cells) == pytest.approx(0, abs=1e-20)


def test_interactions_hold_every_pair_of_values(many: StudyResult) -> None:
    pairs = interactions(many.records, many.space)
    assert {frozenset(pair[:2]) for pair in pairs} == {
        frozenset(pair) for pair in (("split", "slices"), ("split", "window"), ("slices", "window"))
    }
    for axis, _, values, lines in pairs:
        assert values == [show(key) for key in many.space.axes[axis].grid()]
        assert len({tuple(word for word, _ in line) for line in lines.values()}) == 1


def test_a_report_of_many_trials_tells_what_the_search_learned(many: StudyResult) -> None:
    write_report(many, COMMAND)
    page = read_page(many.out)
    for words in ("Importance of the axes", "Importance of each axis", "Main effects"):
        assert words in page


def test_a_terminal_shows_the_front_of_many_variants(
    many: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_report(many, COMMAND).table
    assert len(whole.rows) == len(many.records) == 18
    monkeypatch.setattr(report, "_MOST_SHOWN", 17)
    brief = write_report(many, COMMAND).table
    front = {s.label for s in summarise(many.records, many.space) if s.on_front or s.is_baseline}
    assert 1 < len(front) < 18
    listed = {row.name: row for row in whole.rows}
    assert [listed[row.name] for row in brief.rows] == [*brief.rows]
    assert len(brief.rows) == len(front)
    text = write_report(many, COMMAND).text()
    assert f"{18 - len(front)} further variants, dominated or stopped" in text
    csv = (many.out / "table.csv").read_text()
    assert len(csv.splitlines()) == 19


def test_two_studies_are_compared_by_volume_and_by_variant(
    many: StudyResult, result: StudyResult
) -> None:
    overview, ranking, variants = compare_studies(result, many)
    assert ranking.rows[0].values["variants"] == 3
    assert ranking.rows[0].values["tau"].value == pytest.approx(1)  # one formula for both
    assert ranking.rows[0].values["first_ceiling"] is None  # a single seed
    volumes = {row.values["study"][0]: row.values["hypervolume"] for row in overview.rows}
    assert volumes["B"] == 100 >= volumes["A"] > 0
    shared = [
        row.values
        for row in variants.rows
        if row.values.get("A_kmacs_per_px") is not None
        and row.values.get("B_kmacs_per_px") is not None
    ]
    assert len(shared) == 3
    assert all(row["A_kmacs_per_px"] == row["B_kmacs_per_px"] for row in shared)


def test_studies_that_cannot_be_compared_are_refused(result: StudyResult, tmp_path: Path) -> None:
    text = SPACE + "objectives: [lagrangian_percent, parameters]"
    space = parse_space(text, "toy.yaml", None)
    other = run_study(prepare(space, out=tmp_path / "o", trainer=Surrogate(tmp_path / "log")), 1)
    with pytest.raises(LabError, match=r"objectives .*kmacs_per_px but .*parameters"):
        compare_studies(result, other)


def test_variants_are_compared_with_jpeg_at_their_own_qualities(
    result: StudyResult, tmp_path: Path
) -> None:
    folder = tmp_path / "toy"
    shutil.copytree(result.out, folder)
    like = curve(result.space.baseline, levels=9)
    levels = [
        point.model_copy(
            update={
                "images": tuple(
                    image.model_copy(
                        update={
                            "bits": round(64 * 64 * 0.3 * 2**i) + 8 * 350,  # the header
                            "payload_bits": round(64 * 64 * 0.3 * 2**i),
                            "estimated_bits": None,
                            "psnr_db": 20.0 + 2 * i,
                        }
                    )
                    for image in point.images
                )
            }
        )
        for i, point in enumerate(like.points)
    ]
    jpeg = like.model_copy(update={"name": "jpeg", "points": tuple(levels)})
    (folder / "jpeg.json").write_text(jpeg.model_dump_json())
    summary = write_report(open_result(folder), COMMAND)
    rows = list(csv.DictReader(io.StringIO((folder / "jpeg.csv").read_text())))
    # The rate of this JPEG without headers doubles every 2 dB, as that of the variants does.
    records = {record.label: record for record in open_result(folder).records}
    for row in rows:
        record = records.pop(row["variant"].rstrip(" ★†"))
        above_db = record.rd.psnr_db[0] - 20
        expected = 100 * (0.2 / (0.3 * 2 ** (above_db / 2)) - 1)
        for level in range(4):
            assert float(row[f"level{level}"]) == pytest.approx(expected, rel=1e-3)
        assert float(row["bd"]) == pytest.approx(expected, rel=1e-2)
        assert float(row["bd_low"]) <= float(row["bd"]) <= float(row["bd_high"]) < 0
    spent = [
        float(row[f"level{level}"])
        for row in csv.DictReader(io.StringIO((folder / "jpeg.csv").read_text()))
        for level in range(2)
    ]
    fewer = sorted(-each for each in spent)
    assert fewer[0] > 0
    said = f"need {fewer[0]:.1f} to {fewer[-1]:.1f} % fewer bits than JPEG at equal PSNR"
    assert any(said in text for text in summary.findings)
    assert "Against JPEG at equal PSNR" in read_page(folder)

    assert "exclude file headers on both sides" in (folder / "jpeg.md").read_text()

    other = jpeg.model_copy(update={"data_fingerprint": "other"})
    (folder / "jpeg.json").write_text(other.model_dump_json())
    with pytest.raises(LabError, match=r"jpeg.json: was measured on other images"):
        write_report(open_result(folder), COMMAND)


def test_jpeg_of_an_earlier_version_is_not_compared_but_measured_again(
    result: StudyResult, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    for name, each in zip("ab", pixels, strict=True):
        (tmp_path / name).mkdir()
        Image.fromarray(each).save(tmp_path / name / "noise.png")
    images, others = (open_images(tmp_path / name, "eval") for name in "ab")
    path = tmp_path / "jpeg.json"
    measure_anchor(tmp_path, images)
    kept = path.read_text()
    measure_anchor(tmp_path, images)
    assert path.read_text() == kept  # times included
    with pytest.raises(LabError, match=r"jpeg.json: was measured on other images than those given"):
        measure_anchor(tmp_path, others)
    known = RdRecord.model_validate_json(kept)
    payloads = [image.payload_bits for point in known.points for image in point.images]

    path.write_text(re.sub(r'"payload_bits":\d+', '"payload_bits":null', kept))
    measured = replace(result, out=tmp_path, records=())
    with pytest.raises(LabError, match=r"jpeg.json: is from an earlier .* --eval-data IMAGES"):
        read_anchor(measured)
    measure_anchor(tmp_path, images)
    again = read_anchor(measured)
    assert again is not None
    assert payloads == [image.payload_bits for point in again.points for image in point.images]
    assert None not in payloads


def test_jpeg_is_not_measured_on_other_images_than_the_studys(
    result: StudyResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("space.yaml", "records.jsonl"):
        shutil.copy(result.out / name, tmp_path)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (24, 16)).save(tmp_path / "images" / "black.png")
    words = ["study", "report", str(tmp_path), "--eval-data", str(tmp_path / "images")]
    assert main(words) == 2
    assert "images: holds other images than those that the study was" in capsys.readouterr().err
    assert not (tmp_path / "jpeg.json").exists()


def test_a_quality_beyond_jpeg_has_no_comparison() -> None:
    jpeg = RdCurve(bpp=(0.25, 0.5, 1.0), psnr_db=(28.0, 30.0, 32.0))
    own = RdCurve(bpp=(0.1, 0.25, 0.5, 1.0), psnr_db=(27.0, 30.0, 31.0, 33.0))
    below, half, between, above = rate_percents(jpeg, own)
    assert below is None
    assert above is None
    assert half == pytest.approx(-50)
    assert between == pytest.approx(100 * (0.5 / 2**-0.5 - 1))

"""The registry of metrics: values from records, names that users mistype, metrics of their own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from surrogate import SPACE, Surrogate, curve, trained
from test_compare import LAMBDAS, NANO, trainings

import tcm_lab
from tcm_lab.complexity import measure_complexity
from tcm_lab.errors import ConfigError, LabError
from tcm_lab.evaluation import bd_rate, lagrangian_percent
from tcm_lab.metrics import METRICS, formatted
from tcm_lab.stats import Interval
from tcm_lab.study.importance import hypervolume_history
from tcm_lab.study.plots import study_plots
from tcm_lab.study.prepare import prepare
from tcm_lab.study.record import TrialRecord, training_identity
from tcm_lab.study.report import findings
from tcm_lab.study.result import StudyResult
from tcm_lab.study.run import run_study
from tcm_lab.study.space import parse_space
from tcm_lab.study.summary import summarise
from tcm_lab.study.tables import ablation_table, trial_table
from tcm_lab.study.trainer import CodecTrainer


def test_counts_are_those_of_the_complexity_record() -> None:
    (record,) = trainings((0.0,))
    counted = measure_complexity(NANO, (64, 64))
    assert METRICS["parameters"].of(record) == counted.total_parameters
    assert METRICS["weight_bytes"].of(record) == 4 * counted.total_parameters
    macs = {part: cost.total_macs for part, cost in counted.parts.items()}
    encoder = sum(value for part, value in macs.items() if part != "g_s")
    ours = METRICS["encode_kmacs_per_px"].of(record)
    assert ours <= encoder / (64 * 64) / 1e3  # which counts normalisation too
    assert METRICS["peak_memory_bytes"].of(record) is None


def test_rates_are_means_over_images_and_levels() -> None:
    (record,) = trainings((0.0,))
    images = [image for point in record.rd.points for image in point.images]
    assert METRICS["bpp"].of(record) == pytest.approx(
        sum(image.bits for image in images) / (64 * 64) / len(images)
    )
    assert METRICS["file_bytes"].of(record) == pytest.approx(
        sum(image.bits for image in images) / 8 / len(images)
    )
    assert METRICS["encode_ms"].of(record) == 10


def test_comparisons_take_the_baseline_as_anchor() -> None:
    baseline, better = trainings((0.0, 0.5))
    assert (
        METRICS["bd_rate_percent"].of(better, baseline)
        == bd_rate(curve(NANO).curve(), curve(NANO, bonus=0.5).curve()).percent
    )
    expected = lagrangian_percent(baseline.rd, better.rd, lambdas=LAMBDAS)
    assert METRICS["lagrangian_percent"].of(better, baseline) == expected < 0
    for name in ("bd_rate_percent", "lagrangian_percent"):
        assert METRICS[name].of(baseline, baseline) == 0
        assert METRICS[name].of(better) is None


def test_losses_of_all_metrics_fall_as_a_codec_gets_better() -> None:
    baseline, better = trainings((0.0, 0.5))
    for name in ("psnr_db", "lagrangian_percent", "bd_rate_percent"):
        metric = METRICS[name]
        losses = [metric.loss(metric.of(record, baseline)) for record in (baseline, better)]
        assert losses[1] < losses[0], name


def test_a_mistyped_name_is_answered_with_the_nearest_ones() -> None:
    with pytest.raises(ConfigError, match=r"'kmac_per_px'.* Did you mean kmacs_per_px"):
        METRICS["kmac_per_px"]
    assert "kmac_per_px" not in METRICS


def test_a_metric_of_ones_own_is_registered_once() -> None:
    @tcm_lab.register_metric("best_psnr_db", unit="dB", direction="maximize", needs="rd")
    def best(record: object, baseline: object) -> float:
        return max(record.rd.psnr_db)  # type: ignore[attr-defined]

    try:
        (record,) = trainings((0.0,))
        assert METRICS["best_psnr_db"].of(record) == record.rd.points[-1].psnr_db
        assert METRICS["best_psnr_db"].label == "best_psnr_db"
        with pytest.raises(LabError, match="'best_psnr_db' is taken"):
            tcm_lab.register_metric("best_psnr_db")
        with pytest.raises(LabError, match="cannot name a metric"):
            tcm_lab.register_metric("best psnr")
    finally:
        METRICS.unregister("best_psnr_db")


@pytest.fixture
def half_defined() -> Iterator[None]:
    def counted(record: TrialRecord, baseline: TrialRecord | None) -> float | None:
        macs = record.complexity.kmacs_per_px
        return macs if macs < 36 else None

    def measured(record: TrialRecord, baseline: TrialRecord | None) -> float:
        return math.nan if record.config["name"].endswith("split=0.25") else 1.0

    tcm_lab.register_metric("few_macs")(counted)
    tcm_lab.register_metric("odd", needs="rd")(measured)
    yield
    METRICS.unregister("few_macs")
    METRICS.unregister("odd")


@pytest.mark.usefixtures("half_defined")
@pytest.mark.parametrize(
    ("judged", "undefined", "trainings"),
    [
        ("objectives: [odd, kmacs_per_px]", {"split 0.25"}, 5),
        ("soft_constraints: {odd: 2}", {"split 0.25"}, 5),
        ("objectives: [lagrangian_percent, few_macs]", {"split 0", "split 0.25", "split 1"}, 2),
        ("constraints: {few_macs: 100}", {"split 0", "split 0.25", "split 1"}, 2),
    ],
)
def test_a_variant_without_a_number_to_judge_it_by_fails_alone_and_at_once_if_it_can(
    tmp_path: Path, judged: str, undefined: set[str], trainings: int
) -> None:
    space = parse_space(f"{SPACE}{judged}\n", "toy.yaml", None)
    log = tmp_path / "log"
    result = run_study(prepare(space, out=tmp_path / "toy", trainer=Surrogate(log)), 1)
    assert result.failed.keys() == undefined
    assert all("undefined" in reason for reason in result.failed.values())
    assert {record.label for record in result.records}.isdisjoint(undefined)
    assert len(trained(log)) == trainings


@pytest.mark.usefixtures("half_defined")
def test_a_baseline_without_a_number_to_judge_it_by_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    text = SPACE.replace("base: tcm-nano", "base: tcm-nano-conv-only")
    space = parse_space(f"{text}constraints: {{few_macs: 100}}\n", "toy.yaml", None)
    with pytest.raises(ConfigError, match="few_macs is undefined for tcm-nano-conv-only"):
        prepare(space, out=tmp_path / "toy", trainer=Surrogate(tmp_path / "log"))
    assert list(tmp_path.iterdir()) == []


MAXIMISED = """
objectives: [psnr_db, kmacs_per_px]
soft_constraints: {psnr_db: 31.3}
"""


@pytest.fixture(scope="module")
def maximised(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    folder = tmp_path_factory.mktemp("maximised")
    space = parse_space(SPACE + MAXIMISED, "toy.yaml", None)
    return run_study(prepare(space, out=folder / "toy", trainer=Surrogate(folder / "log")), 1)


def test_a_study_maximises_what_is_better_when_high(maximised: StudyResult) -> None:
    summaries = summarise(maximised.records, maximised.space)
    points = {s.label: (s.metrics["psnr_db"], s.metrics["kmacs_per_px"]) for s in summaries}
    expected = {
        label
        for label, (psnr, macs) in points.items()
        if psnr >= 31.3
        and not any(p >= psnr and m <= macs and (p, m) != (psnr, macs) for p, m in points.values())
    }
    assert {s.label for s in summaries if s.on_front} == expected
    assert "split 0.75" in expected
    infeasible = {s.label for s in summaries if "infeasible" in s.marks}
    assert infeasible == {label for label, (psnr, _) in points.items() if psnr < 31.3} != set()
    rows = trial_table(summaries, maximised.space).rows
    marked = {row.values["variant"] for row in rows if "infeasible" in row.marks}
    assert marked == infeasible
    volumes = [share for _, share in hypervolume_history(maximised.records, maximised.space)]
    assert volumes == sorted(volumes)
    assert volumes[-1] == pytest.approx(1)


def test_a_report_shows_a_metric_of_ones_own_with_its_interval(maximised: StudyResult) -> None:
    @tcm_lab.register_metric(
        "gain_db", label="PSNR gain", unit="dB", direction="maximize", needs="rd", relative=True
    )
    def gain(record: TrialRecord, baseline: TrialRecord) -> float:
        return fmean(record.rd.psnr_db) - fmean(baseline.rd.psnr_db)

    try:
        objectives = {"objectives": ("gain_db", "weight_bytes"), "soft_constraints": {}}
        space = maximised.space.model_copy(update=objectives)
        summaries = summarise(maximised.records, space)
        column = {s.label: s for s in summaries}
        best = column["split 0.75"].intervals["gain_db"]
        assert best.value == pytest.approx(2 * 0.4 * 0.25**2)  # the formula of the surrogate
        assert best.resampled == {"images": 3}
        assert "pareto-by-mean" in column["split 0.75"].marks  # of one training each
        keys = [c.key for c in trial_table(summaries, space).columns]
        assert {"gain_db", "weight_bytes"} <= set(keys)
        assert set(study_plots(summaries, space)) == {"pareto", "rd"}
    finally:
        METRICS.unregister("gain_db")


@pytest.mark.parametrize(("form", "shown"), [(",d", "1,235"), (".1%", "123456.7%")])
def test_a_mean_over_seeds_is_shown_in_every_format_that_is_taken(
    maximised: StudyResult, form: str, shown: str
) -> None:
    @tcm_lab.register_metric("count", format=form, needs="rd")
    def count(record: TrialRecord, baseline: TrialRecord | None) -> float:
        return 1234 if record.label == "split 1" else 1234.567

    try:
        objectives = {"objectives": ("count", "kmacs_per_px"), "soft_constraints": {}}
        space = maximised.space.model_copy(update={**objectives, "mode": "ablation"})
        summaries = summarise(maximised.records, space)
        for table in (trial_table(summaries, space), ablation_table(summaries, space)):
            assert all(table.cells(table.rows))
        table = trial_table(summaries, space)
        texts = {cell.text for _, cells in table.cells(table.rows) for cell in cells}
        assert shown in texts
    finally:
        METRICS.unregister("count")


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [(-0.004, "+.2f", "+0.00"), (-0.4, "d", "0"), (-0.006, "+.2f", "-0.01"), (-0.0, ".1%", "0.0%"),
     (-math.inf, ".1f", "-inf"), (-1e-9, ".1e", "-1.0e-09"), (-0.0, ".1e", "0.0e+00")],
)  # fmt: skip
def test_no_zero_has_a_minus(value: float, form: str, text: str) -> None:
    assert formatted(value, form) == text


@pytest.mark.parametrize("form", ["x", "-.2f", "d.2", "%d", ".2d"])
def test_a_format_that_a_table_could_not_show_is_refused_at_once(form: str) -> None:
    with pytest.raises(ConfigError, match=r"metric 'own': format '.*' does not fit numbers such"):
        tcm_lab.register_metric("own", format=form)


def test_only_a_variant_that_is_better_beyond_its_interval_is_said_to_code_better() -> None:
    def said(*others: tuple[float, ...]) -> str:
        seeds = zip(*([0.0] * len(others[0]), *others), strict=True)
        records = [
            record.model_copy(update={"seed": n, "number": 10 * n + record.number})
            for n, goods in enumerate(seeds)
            for record in trainings(goods)
        ]
        space = parse_space(SPACE, "toy.yaml", None)
        return " ".join(findings(summarise(records, space), space))

    assert "1 codes better than the baseline, 0: -" in said((0.3, 0.31))
    assert "No variant is distinguishably better than the baseline" in said((1.0, -0.3))
    assert "No variant codes better than the baseline, 0." in said((-0.3, -0.31))
    # A lower mean that could be chance gives way to one that could not.
    assert "2 codes better than the baseline" in said((2.5, -0.3), (0.3, 0.31))
    # One training each tells nothing of how much seeds vary.
    assert "1 has the lowest cost of one training each, -" in said((0.3,))
    assert "codes better than the baseline, 0: " not in said((0.3,))


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_training_each_earns_no_star_no_bold_no_colour_and_no_letter_of_its_own(
    seeds: int,
) -> None:
    text = SPACE.replace("sampler: grid", "mode: ablation").replace("split: {", "n: {")
    space = parse_space(text, "toy.yaml", None)
    summaries = summarise(trainings((0.0, 0.3, -0.3), seeds), space)
    better = summaries[1]
    assert better.on_front
    assert better.is_established == (seeds > 1)
    assert better.marks == (("pareto",) if seeds > 1 else ("pareto-by-mean",))
    for table in (trial_table(summaries, space), ablation_table(summaries, space)):
        cells = [cell for _, row in table.cells(table.rows) for cell in row if cell.is_best]
        bold = {cell.column.key for cell in cells if isinstance(cell.value, Interval)}
        assert bold == ({"lagrangian_percent", "bd_rate_percent"} if seeds > 1 else set())
    assert [s.group for s in summaries] == (["b", "a", "c"] if seeds > 1 else ["", "", ""])
    (legend,) = study_plots(summaries, space)["ablation"].legends
    words = [text.get_text() for text in legend.get_texts()]
    assert words == (["better", "worse"] if seeds > 1 else ["not distinguishable"])


def test_a_variant_of_one_training_shares_a_letter_with_every_other() -> None:
    space = parse_space(SPACE, "toy.yaml", None)
    records = trainings((0.0, 0.3, -0.3), 2)
    once = [r for r in records if r.seed == 0 or r.fingerprint != records[-1].fingerprint]
    assert [s.group for s in summarise(records, space)] == ["b", "a", "c"]
    assert [s.group for s in summarise(once, space)] == ["b", "a", "ab"]


def test_a_study_by_a_metric_on_request_measures_it_or_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_lpips = "objectives: [lpips, kmacs_per_px]\nsoft_constraints: {dists: 0.2}\n"
    space = parse_space(SPACE + by_lpips, "toy.yaml", None)
    assert space.requested == ("lpips", "dists")
    recipe = space.budget.recipe_for(0)
    identities = {
        training_identity("f", recipe, "a", "b", requested=requested)
        for requested in ((), ("lpips",), ("lpips", "dists"), ("dists", "lpips"))
    }
    assert len(identities) == 3
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(LabError, match=r"lpips: needs the ImageNet weights alexnet.*nothing is"):
        prepare(space, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("tcm_lab.evaluation.quality._network", lambda name: None)
    context = prepare(space, out=tmp_path / "out")
    assert isinstance(context.trainer, CodecTrainer)
    assert context.trainer.requested == ("lpips", "dists")


@pytest.fixture
def psnr_gain() -> Iterator[None]:
    def gain(record: TrialRecord, baseline: TrialRecord | None) -> float | None:
        return None if baseline is None else _psnr(record) - _psnr(baseline)

    tcm_lab.register_metric("psnr_gain_db", needs="rd", relative=True)(gain)
    yield
    METRICS.unregister("psnr_gain_db")


def _psnr(record: TrialRecord) -> float:
    assert record.rd is not None
    return fmean(point.psnr_db for point in record.rd.points)


@pytest.mark.usefixtures("psnr_gain")
@pytest.mark.parametrize("seeds", [(0, 1), (0, 7), (7, 8), (0, 1, 7)])
def test_every_seed_of_a_metric_s_difference_counts_once(seeds: tuple[int, ...]) -> None:
    space = parse_space(f"{SPACE}objectives: [psnr_gain_db, kmacs_per_px]\n", "toy.yaml", None)
    records = [
        record.model_copy(update={"params": {"split": 0.5 * record.is_baseline}})
        for record in trainings((0.0, 0.5), seeds=3, noise=0.3)
    ]
    base = [record for record in records if record.is_baseline]
    own = [
        record.model_copy(update={"seed": seed, "identity": f"own-{seed}"})
        for record, seed in zip(records[3:], seeds, strict=False)
    ]
    assert len(own) == len(seeds)
    paired = set(seeds) <= {0, 1, 2}
    partners = base[: len(seeds)] if paired else base
    ours, theirs = ([_psnr(record) for record in side] for side in (own, partners))
    found = summarise([*base, *own], space)[1].intervals["psnr_gain_db"]
    assert found.value == pytest.approx(fmean(ours) - fmean(theirs))
    if paired:
        expected = np.std(np.subtract(ours, theirs), ddof=1) / math.sqrt(len(ours))
    else:
        expected = math.hypot(*(np.std(s, ddof=1) / math.sqrt(len(s)) for s in (ours, theirs)))
    assert expected < found.noise < 10 * expected  # Student's factors widen it

"""What a budget resolves, against trainings whose variation is known because it was put in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from surrogate import SPACE, Surrogate, curve

from tcm_lab.cli import main
from tcm_lab.codec import load_config
from tcm_lab.errors import ConfigError, LabError
from tcm_lab.evaluation import RdRecord, Seeds, lagrangian_interval
from tcm_lab.metrics import METRICS
from tcm_lab.stats import IncompleteInterval, Interval
from tcm_lab.study import noise
from tcm_lab.study.dry_run import dry_run
from tcm_lab.study.estimators import Comparison, Estimate, LinearPhase, Supernet
from tcm_lab.study.noise import Noise, known_noise, noise_of, noise_yaml
from tcm_lab.study.noise_measurement import _between_seeds, measure_noise, noise_of_studies
from tcm_lab.study.prepare import prepare
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.report import findings
from tcm_lab.study.result import StudyResult, open_result
from tcm_lab.study.run import run_study
from tcm_lab.study.space import parse_space
from tcm_lab.study.summary import _difference, noise_for, summarise
from tcm_lab.study.tables import trial_table
from tcm_lab.training import get_recipe

STUDIES = Path(__file__).parents[2] / "studies"
LAMBDAS = (0.0025, 0.005, 0.01, 0.02)
CONFIG = load_config("tcm-nano")
MEASURED = Noise(
    recipe="scratch", steps=40, base="tcm-nano", design=CONFIG.fingerprint, variants=4, seeds=3,
    images=24, freedom=1000, seed_sd=0.3, image_sd=0.5, spread=1.0,
)  # fmt: skip


def evaluation(percents: np.ndarray) -> RdRecord:
    """Return an evaluation whose images cost so many percent more than a fixed one's."""
    like = curve(CONFIG)
    points = tuple(
        point.model_copy(
            update={
                "images": tuple(
                    point.images[0].model_copy(
                        update={
                            "name": str(i),
                            "bits": round(1e6 * 2**level * (1 + percent / 100)),
                            "height": 1000,
                            "width": 1000,
                            "psnr_db": 30.0 - 10 * np.log10(2.0**level * (1 + percent / 100)),
                        }
                    )
                    for i, percent in enumerate(percents)
                )
            }
        )
        for level, point in enumerate(like.points)
    )
    return like.model_copy(update={"points": points})


def declared(effect: float, seeds: int, rng: np.random.Generator, images: int = 24) -> bool:
    """Say whether two codecs that differ by ``effect`` percent are declared different."""
    own = rng.normal(0, MEASURED.image_sd, images)
    pairs = [
        (evaluation(np.zeros(images)), evaluation(effect + own + rng.normal(0, MEASURED.seed_sd)))
        for _ in range(seeds)
    ]
    sides = [[pair[side] for pair in pairs] for side in (0, 1)]
    known = Seeds(paired=True, sd_percent=MEASURED.seed_sd)
    return lagrangian_interval(*sides, lambdas=LAMBDAS, samples=200, seeds=known).excludes_zero  # type: ignore[misc]


def test_codecs_without_a_difference_are_declared_different_in_one_of_twenty_draws() -> None:
    rng = np.random.default_rng(0)
    share = np.mean([declared(0.0, 2, rng) for _ in range(200)])
    assert share <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)


def test_a_difference_of_twice_the_promised_resolution_is_found() -> None:
    rng = np.random.default_rng(1)
    seeds = MEASURED.seeds_for(0.5, 24)
    assert seeds is not None
    assert MEASURED.resolution(seeds, 24) <= 0.5 < MEASURED.resolution(seeds - 1, 24)
    assert np.mean([declared(1.0, seeds, rng) for _ in range(60)]) >= 0.9


def test_no_number_of_seeds_makes_up_for_images_that_differ() -> None:
    assert MEASURED.seeds_for(0.2, 24) is None
    assert MEASURED.seeds_for(0.2, 240) is not None


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    folder = tmp_path_factory.mktemp("noise")
    space = parse_space(SPACE.replace("sampler: grid", "mode: ablation").replace(
        "rate_levels: 4", "rate_levels: 4, seeds: 3"), "toy.yaml", None)  # fmt: skip
    trainer = Surrogate(folder / "log", seed_noise=0.01)
    return run_study(prepare(space, out=folder / "toy", trainer=trainer), 1)


def test_a_studys_noise_is_what_its_pairs_of_equal_seeds_vary_by(study: StudyResult) -> None:
    found = measure_noise(study.records)
    assert (found.variants, found.seeds, found.images) == (4, 3, 3)
    # A seed moves all variants alike, so its paired differences hardly vary, unlike the variants'.
    assert found.seed_sd < 0.01 < found.spread


def test_unpaired_seeds_of_another_study_are_no_noise(study: StudyResult) -> None:
    with pytest.raises(LabError, match=r"budget\.seeds of 2 or more"):
        measure_noise([record for record in study.records if record.seed == 0])


def test_a_search_by_another_estimator_says_nothing_of_the_noise_of_its_finalists(
    study: StudyResult,
) -> None:
    searched = [
        record.model_copy(update={"estimator": LinearPhase(), "rd": None})
        for record in study.records
    ]
    assert noise_of_studies([[*searched, *study.records]]) == noise_of_studies([study.records])


def test_studies_that_begin_with_other_seeds_are_paired_by_the_trainings_seeds(
    study: StudyResult,
) -> None:
    whole = measure_noise(study.records)
    names = {r.label for r in study.records if not r.is_baseline}
    first = sorted(names)[:2]

    def later(record: TrialRecord) -> TrialRecord:
        """As of a study that began with seed 100, whose seeds cost everything 2 % more."""
        rd = evaluation_times(record.rd, 1.02 ** (1 + record.seed))
        recipe = record.recipe.changed(seed=100 + record.recipe.seed)
        return record.model_copy(update={"recipe": recipe, "rd": rd})

    one = [r for r in study.records if r.is_baseline or r.label in first]
    other = [later(r) for r in study.records if r.is_baseline or r.label not in first]
    for order in ([*one, *other], [*other, *one]):
        assert measure_noise(order).variants == whole.variants
        assert measure_noise(order).seed_sd == pytest.approx(whole.seed_sd, rel=0.5)


def evaluation_times(rd: RdRecord, factor: float) -> RdRecord:
    """Return an evaluation with as many times the bits and the squared errors."""
    points = [
        point.model_copy(
            update={
                "images": tuple(
                    image.model_copy(
                        update={
                            "bits": round(image.bits * factor),
                            "psnr_db": image.psnr_db - 10 * np.log10(factor),
                        }
                    )
                    for image in point.images
                )
            }
        )
        for point in rd.points
    ]
    return rd.model_copy(update={"points": tuple(points)})


def of_one_image(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return trainings as if the first image alone had been coded."""
    alone = []
    for record in records:
        points = tuple(p.model_copy(update={"images": p.images[:1]}) for p in record.rd.points)
        alone.append(
            record.model_copy(update={"rd": record.rd.model_copy(update={"points": points})})
        )
    return alone


def test_one_image_tells_nothing_of_the_noise_over_images(study: StudyResult) -> None:
    with pytest.raises(LabError, match="coded one image"):
        measure_noise(of_one_image(study.records))


def test_what_was_measured_is_written_and_read_again(tmp_path: Path, study: StudyResult) -> None:
    path = tmp_path / "noise.yaml"
    assert main(["noise", str(study.out), "--out", str(path)]) == 0
    assert noise_yaml(known_noise(path)) == path.read_text()
    path.write_text("noise: 3")
    with pytest.raises(LabError, match=r"noise\.yaml: 'noise' must be a list"):
        known_noise.__wrapped__(path)


def test_noise_speaks_for_its_recipe_at_about_its_steps() -> None:
    recipe = get_recipe("scratch").changed(lambdas=LAMBDAS)
    assert noise_of(recipe.changed(steps=50), [MEASURED]) is MEASURED
    assert noise_of(recipe.changed(steps=100), [MEASURED]) is None
    assert noise_of(recipe.changed(steps=40, batch=3), [MEASURED]) is None
    assert noise_of(get_recipe("minute").changed(steps=40), [MEASURED]) is None


@pytest.mark.parametrize(
    ("base", "names"),
    [
        ("tcm-nano", ("split", "paper-ablation", "squeeze", "window", "slices")),
        ("tcm-nano-twice-as-wide", ("larger",)),
    ],
)
def test_the_noise_in_the_package_is_that_of_the_published_studies(
    base: str, names: tuple[str, ...]
) -> None:
    measured = noise_of_studies(open_result(STUDIES / name).records for name in names)
    kept = [n for n in known_noise() if n.recipe == "study" and n.base == base]
    assert [n.changes for n in kept] == [n.changes for n in measured] == ["transforms", "any"]
    for known, found in zip(kept, measured, strict=True):
        ours, theirs = ({k: v for k, v in n if isinstance(v, float)} for n in (known, found))
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
        assert known.model_copy(update=ours | theirs) == found


def test_noise_between_seeds_is_each_codecs_own_and_not_what_moves_all() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(2000):
        costs = rng.normal(0, 5, 3) + rng.normal(0, 0.4, (6, 3))  # codecs, the baseline first
        found.append(_between_seeds([dict(enumerate(row - costs[0])) for row in costs[1:]]))
    assert {freedom for _, freedom in found} == {(6 - 1) * (3 - 1)}
    # The difference of two codecs has twice the variance of one.
    assert np.mean([sd**2 for sd, _ in found]) == pytest.approx(2 * 0.4**2, rel=0.03)
    two = {0: 0.1, 1: 0.5, 2: -0.3}  # one variant: what its differences vary by
    assert _between_seeds([two]) == (pytest.approx(np.std([*two.values()], ddof=1)), 2)
    assert _between_seeds([two, {0: 1.0, 1: 2.0}])[1] == 8 - 3 - 3 + 1  # a seed is missing


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_by_the_seeds_at_hand_hold_the_truth_as_often_as_they_say(seeds: int) -> None:
    rng, zeros = np.random.default_rng(seeds), np.zeros(24)
    holds = 0
    for _ in range(400):
        own = rng.normal(0, 0.5, 24)
        pairs = [(evaluation(zeros), evaluation(own + rng.normal(0, 1))) for _ in range(seeds)]
        sides = [[pair[side] for pair in pairs] for side in (0, 1)]
        found = lagrangian_interval(*sides, lambdas=LAMBDAS, samples=200, seeds=Seeds(paired=True))  # type: ignore[misc]
        holds += found.low <= 0 <= found.high
    assert holds / 400 >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / 400)


def test_each_variants_interval_holds_the_noise_of_what_it_changes() -> None:
    study = open_result(STUDIES / "paper-ablation")
    _, *others = summarise(study.records, study.space)
    sd = {s.label: s.intervals["lagrangian_percent"].noise * len(s.records) ** 0.5 for s in others}
    of_transforms = {
        "convolution alone", "transformer alone", "one after the other", "plain windows twice",
    }  # fmt: skip
    assert of_transforms < set(sd)
    for label, found in sd.items():
        measured = noise_of(
            get_recipe("study"), changes="transforms" if label in of_transforms else "any"
        )
        wider = stats.t.ppf(0.975, measured.freedom) / stats.norm.ppf(0.975)
        assert found == pytest.approx(wider * measured.seed_sd), label


def test_the_noise_of_a_difference_is_that_of_what_it_changes(tmp_path: Path) -> None:
    head = "name: toy\nbase: tcm-nano\nmode: ablation\nbudget: {recipe: study, seeds: 3}"

    def promised(axes: str) -> str:
        text = f"{head}\naxes: {axes}"
        return dry_run(prepare(parse_space(text, "toy.yaml", None), out=tmp_path / "toy")).text()

    split, slices = (
        '{path: "g_*.split", choices: [0, 1]}',
        "{path: entropy_model.slices, choices: [1, 4]}",
    )
    transforms, any_part = (
        f"{noise_of(get_recipe('study'), changes=changes).seed_sd:.2g} % between seeds"
        for changes in ("transforms", "any")
    )
    assert transforms != any_part
    assert transforms in promised(f"{{split: {split}}}")
    assert any_part in promised(f"{{slices: {slices}}}")
    assert any_part in promised(f"{{split: {split}, slices: {slices}}}")

    recipe, narrow = get_recipe("study"), MEASURED.model_copy(update={"changes": "transforms"})
    scratch = get_recipe("scratch").changed(steps=40)
    assert noise_of(scratch, [MEASURED], changes="transforms") is MEASURED
    assert noise_of(scratch, [MEASURED, narrow], changes="transforms") is narrow
    assert noise_of(scratch, [narrow]) is None
    assert noise_of(recipe, changes="transforms").seed_sd < noise_of(recipe).seed_sd


def test_a_resolution_chooses_the_seeds_and_the_dry_run_promises_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = MEASURED.model_copy(update={"image_sd": 0.05})
    monkeypatch.setattr(noise, "known_noise", lambda: (measured,))

    def context(budget: str):  # type: ignore[no-untyped-def]
        text = SPACE.replace("rate_levels: 4", f"rate_levels: 4, {budget}")
        return prepare(parse_space(text, "toy.yaml", None), out=tmp_path / "toy")

    chosen = context("resolution: 0.4")
    assert chosen.space.budget.seeds == 3
    promised = "Resolution: ±0.36 % of Lagrangian cost, with 3 seeds"
    assert promised in dry_run(chosen).text()
    assert "use the study's own seeds" not in dry_run(chosen).text()
    monkeypatch.setattr(
        noise, "known_noise", lambda: (measured.model_copy(update={"design": "other"}),)
    )
    borrowed = (
        "It was measured for another baseline, tcm-nano: the study's intervals will use its own "
        "seeds."
    )
    assert borrowed in dry_run(chosen).text()
    monkeypatch.setattr(noise, "known_noise", lambda: (measured,))
    with pytest.raises(ConfigError, match=r"budget\.resolution = 0\.1: 3 images and 100 seeds"):
        context("resolution: 0.1")
    with pytest.raises(ConfigError, match=r"resolution = 0\.4 determines seeds"):
        context("resolution: 0.4, seeds: 2")
    with pytest.raises(ConfigError, match=r"was not measured with these settings \(scratch was\)"):
        context("resolution: 0.4, changes: {batch: 3}")


def test_one_image_promises_no_resolution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "known_noise", lambda: (MEASURED,))
    Image.new("RGB", (80, 80)).save(tmp_path / "one.png")
    space = parse_space(SPACE, "toy.yaml", None)
    context = prepare(space, out=tmp_path / "toy", eval_data=tmp_path / "one.png")
    (line,) = (line for line in dry_run(context).lines if line.startswith("Resolution"))
    assert line.startswith("Resolution: unknown, since 1 image does not show")
    assert "inf" not in line


def test_a_resolution_is_reached_by_steps_where_it_takes_too_many_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = MEASURED.model_copy(update={"steps": 20, "seed_sd": 2.2, "image_sd": 0.0})
    long = MEASURED.model_copy(update={"steps": 800, "seed_sd": 0.4, "image_sd": 0.0})
    assert 100 < short.seeds_for(0.4, 3) < 800 / 20 * long.seeds_for(0.4, 3)  # cheaper by steps
    monkeypatch.setattr(noise, "known_noise", lambda: (short, long))
    text = SPACE.replace("steps: 40, rate_levels: 4", "rate_levels: 4, resolution: 0.4")
    budget = prepare(parse_space(text, "toy.yaml", None), out=tmp_path / "toy").space.budget
    assert (budget.steps, budget.seeds) == (800, long.seeds_for(0.4, 3))


def test_a_resolution_goes_by_the_noise_of_the_spaces_own_base_whatever_its_lambdas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = MEASURED.model_copy(update={"image_sd": 0.05})
    of_another = {"design": "another", "seed_sd": 0.01, "changes": "transforms"}
    other = own.model_copy(update=of_another)
    assert own.seeds_for(0.4, 3) != other.seeds_for(0.4, 3)
    monkeypatch.setattr(noise, "known_noise", lambda: (other, own))
    budget = "rate_levels: 4, resolution: 0.4, changes: {lambdas: [0.002, 0.03]}"
    text = SPACE.replace("steps: 40, rate_levels: 4", budget)
    found = prepare(parse_space(text, "toy.yaml", None), out=tmp_path / "toy").space.budget
    assert (found.steps, found.seeds) == (40, own.seeds_for(0.4, 3))


def test_measured_noise_gives_way_where_the_seeds_at_hand_vary_by_more(
    study: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: dict[str, list[TrialRecord]] = {}
    for record in sorted(study.records, key=lambda r: (not r.is_baseline, r.seed)):
        groups.setdefault(record.fingerprint, []).append(record)
    baseline, own, *_ = groups.values()
    base = evaluation(np.zeros(24))

    def trained(records: list[TrialRecord], percents: tuple[float, ...]) -> list[TrialRecord]:
        found = (evaluation(np.full(24, percent)) for percent in percents)
        return [r.model_copy(update={"rd": rd}) for r, rd in zip(records, found, strict=True)]

    monkeypatch.setattr(noise, "known_noise", lambda: (MEASURED,))
    baseline = [r.model_copy(update={"rd": base}) for r in baseline]
    # In 19 of 20 draws of three seeds they vary by at most 1.73 times the measured 0.3 %.
    allowed = 0.3 * np.sqrt(stats.f.ppf(0.95, 2, MEASURED.freedom))
    for share, known in ((0.98, MEASURED), (1.02, None)):
        spread = share * allowed
        group = trained(own, (2 - spread, 2, 2 + spread))
        assert noise_for(group, baseline) == known
        assert noise_for(group[:1], baseline) == MEASURED  # one seed denies nothing
    low, high = 2 - 2 * allowed, 2 + 2 * allowed
    interval = _difference(
        METRICS["lagrangian_percent"], trained(own, (low, 2, high)), baseline, study.space
    )
    half = stats.t.ppf(0.975, 2) * 2 * allowed / np.sqrt(3)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.02)


@pytest.mark.parametrize("known", [(), (MEASURED,)])
def test_intervals_of_one_image_are_incomplete_however_well_the_seeds_are_known(
    study: StudyResult, monkeypatch: pytest.MonkeyPatch, known: tuple[Noise, ...]
) -> None:
    monkeypatch.setattr(noise, "known_noise", lambda: known)
    alone = of_one_image(study.records)
    for records, lacks, more in (
        (alone, "images", "--eval-data"),
        ([r for r in alone if not r.seed], "images" if known else "images and seeds", "--eval"),
    ):
        baseline, *others = summarise(records, study.space)
        found = [interval for s in others for interval in s.intervals.values()]
        assert len(found) == 2 * len(others)
        assert all(isinstance(interval, IncompleteInterval) for interval in found)
        costs = [s.intervals["lagrangian_percent"] for s in others]
        apart = [cost for cost in costs if cost.value and isinstance(cost, IncompleteInterval)]
        assert {cost.lacks for cost in apart} == {lacks}
        assert {s.group for s in (baseline, *others)} == {""}
        assert not any("pareto" in s.marks for s in others)
        said = " ".join(findings([baseline, *others], study.space))
        assert "Telling whether it codes better than the baseline" in said
        assert f"takes more {lacks} ({more}" in said
        assert "with one image, the intervals leave out the variation between images" in said
        footer = " ".join(trial_table([baseline, *others], study.space).footer)
        assert "Intervals: not over images, since only one was coded" in footer
    complete = summarise(study.records, study.space)[1].intervals.values()
    assert {type(interval) for interval in complete} == {Interval}


def test_estimates_by_other_seeds_than_the_baselines_vary_each_on_its_own(
    study: StudyResult,
) -> None:
    def side(costs: tuple[float, ...]) -> list[TrialRecord]:
        estimates = [Estimate(log_cost=cost, sd_percent=0.0) for cost in costs]
        return [study.records[0].model_copy(update={"estimate": each}) for each in estimates]

    own, baseline = (0.02, 0.05), (0.01, 0.04)  # which differ by the same from place to place
    spread = 100 * np.std(own, ddof=1) * stats.t.ppf(0.975, 1) / stats.norm.ppf(0.975) / np.sqrt(2)
    for paired, expected in ((True, 0.0), (False, np.hypot(spread, spread))):
        found = Supernet().difference(Comparison(side(own), side(baseline), paired=paired))
        assert found.value == pytest.approx(100 * np.expm1(0.01))
        assert found.noise == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("sd", [0.0, 0.5])
def test_estimates_from_one_image_have_incomplete_intervals(study: StudyResult, sd: float) -> None:
    groups: dict[str, list[TrialRecord]] = {}
    for record in study.records:
        cost = 0.01 * (not record.is_baseline) * (1 + record.seed / 10)
        estimate = Estimate(log_cost=cost, sd_percent=sd * (not record.is_baseline))
        update = {"estimator": Supernet(), "estimate": estimate, "rd": None}
        groups.setdefault(record.fingerprint, []).append(record.model_copy(update=update))
    baseline, own, *_ = groups.values()
    found = Supernet().difference(Comparison(own, baseline))
    assert found.low < found.value < found.high
    assert isinstance(found, IncompleteInterval) == (sd == 0)

"""One lambda per set of weights: what is a point, what is a seed, and what is never averaged."""

import itertools

import numpy as np
import pytest

from tcm_lab._utils.environment import environment
from tcm_lab.errors import LabError
from tcm_lab.evaluation import (
    ImageResult,
    RdPoint,
    RdRecord,
    bd_rate,
    bd_rate_interval,
    join_records,
    lagrangian_cost,
    lagrangian_interval,
    measured_curves,
    points_by_rate,
)
from tcm_lab.reporting import rd_table, series_of_records
from tcm_lab.training import Recipe

LAMBDAS = (0.002, 0.008, 0.032)
RECIPE = Recipe(name="mine", steps=10)


def record(
    *lambdas: float, seed: int = 0, db: float = 0.0, known: bool = True, name: str = "m",
    steps: int = 10, model: str = "m", images: str = "p",
) -> RdRecord:  # fmt: skip
    """Four times the lambda is twice the rate and 3 dB more; a seed adds a tenth of a dB."""
    points = []
    for level, lmbda in enumerate(lambdas):
        doublings = np.log2(lmbda / LAMBDAS[0]) / 2
        image = ImageResult(
            name="a.png", height=1000, width=1000, bits=round(1e5 * 2**doublings),
            estimated_bits=None, psnr_db=28 + db + 0.1 * seed + 3 * doublings, ms_ssim=None,
            encode_ms=1, decode_ms=1,
        )  # fmt: skip
        level_of = float(level) if len(lambdas) > 1 else None
        points.append(RdPoint(rate=level_of, lmbda=lmbda if known else None, images=(image,)))
    recipe = RECIPE.changed(steps=steps, seed=seed, lambdas=lambdas) if known else None
    return RdRecord(
        name=name, model={"name": name, "N": model}, points=tuple(points), recipe=recipe,
        data_fingerprint=images, environment=environment(),
    )  # fmt: skip


def test_one_lambda_per_model_is_one_curve_with_a_point_for_each() -> None:
    scattered = [record(lmbda) for lmbda in reversed(LAMBDAS)]
    (curve,) = measured_curves(scattered)
    (joined,) = curve.records
    assert [point.lmbda for point in joined.points] == list(LAMBDAS)
    assert joined.bpp == (0.1, 0.2, 0.4)
    assert joined.recipe is not None
    assert joined.recipe.lambdas == LAMBDAS
    assert curve.curve().bpp == (0.1, 0.2, 0.4)
    assert RdRecord.model_validate_json(joined.model_dump_json()) == joined
    series = series_of_records(scattered)
    assert (series.bpp, series.low) == ((0.1, 0.2, 0.4), None)
    assert lagrangian_cost(joined, LAMBDAS) == lagrangian_cost(record(*LAMBDAS), LAMBDAS)


def test_seeds_are_averaged_lambda_by_lambda_and_never_across_lambdas() -> None:
    pairs = itertools.product((0, 1, 2), LAMBDAS)
    (curve,) = measured_curves([record(lmbda, seed=seed) for seed, lmbda in pairs])
    assert [record.recipe.seed for record in curve.records if record.recipe] == [0, 1, 2]
    assert all(len(record.points) == 3 for record in curve.records)
    assert curve.curve().psnr_db == pytest.approx((28.1, 31.1, 34.1))
    series = series_of_records(curve.records)
    assert series.low == pytest.approx((28, 31, 34))
    assert series.high == pytest.approx((28.2, 31.2, 34.2))
    rows = rd_table(curve.records).rows
    assert [(row.values["seed"], row.values["lmbda"]) for row in rows] == [
        (seed, lmbda) for seed in (0, 1, 2) for lmbda in LAMBDAS
    ]


def test_a_seed_that_lacks_a_lambda_leaves_its_point_to_the_others() -> None:
    found = [record(lmbda) for lmbda in LAMBDAS] + [record(LAMBDAS[0], seed=2)]
    (curve,) = measured_curves(found)
    assert curve.curve().psnr_db == pytest.approx((28.1, 31, 34))
    with pytest.raises(LabError, match="different rates"):
        bd_rate_interval(found, [record(*LAMBDAS)])


def test_another_seed_at_every_lambda_is_still_one_curve() -> None:
    (curve,) = measured_curves([record(lmbda, seed=i) for i, lmbda in enumerate(LAMBDAS)])
    assert len(curve.records) == 1
    assert "seed" not in {column.key for column in rd_table(curve.records).columns}


@pytest.mark.parametrize(
    ("other", "label"),
    [
        (record(LAMBDAS[1], steps=20), "m, steps 20"),
        (record(LAMBDAS[1], model="wider"), "m #2"),
        (record(LAMBDAS[1], images="q"), "m #2"),
        (record(LAMBDAS[1], name="n"), "n"),
        (record(LAMBDAS[0], db=0.5), "m #2"),  # the same training with another result
        (record(*LAMBDAS, known=False), "m #2"),
    ],
)
def test_what_is_not_trained_alike_is_a_curve_of_its_own(other: RdRecord, label: str) -> None:
    first, second = measured_curves([record(LAMBDAS[0]), other])
    assert first.label.startswith("m")
    assert second.label == label
    assert [len(curve.records) for curve in (first, second)] == [1, 1]


def test_weights_of_unknown_training_are_points_and_never_seeds() -> None:
    found = [record(lmbda, known=False) for lmbda in LAMBDAS]
    (curve,) = measured_curves(found)
    assert curve.curve().bpp == (0.1, 0.2, 0.4)
    assert [len(seeds) for seeds in points_by_rate(found)] == [1, 1, 1]
    whole = [record(*LAMBDAS, known=False), record(*LAMBDAS, known=False, db=1)]
    assert [curve.label for curve in measured_curves(whole)] == ["m", "m #2"]


def test_a_measurement_that_is_given_twice_counts_once() -> None:
    again = record(*LAMBDAS)
    slower = again.points[0].images[0].model_copy(update={"encode_ms": 9.0})
    point = again.points[0].model_copy(update={"images": (slower,)})
    again = again.model_copy(update={"points": (point, *again.points[1:])})
    (curve,) = measured_curves([record(*LAMBDAS), again])
    assert len(curve.records) == 1


def test_a_bd_rate_of_single_lambdas_is_that_of_their_curves() -> None:
    anchor = [record(lmbda, seed=seed) for seed in (0, 1) for lmbda in LAMBDAS]
    curve = [record(lmbda, db=0.5) for lmbda in LAMBDAS]
    expected = bd_rate(measured_curves(anchor)[0].curve(), measured_curves(curve)[0].curve())
    found = bd_rate_interval(anchor, curve, samples=20)
    assert found.value == pytest.approx(expected.percent, abs=1e-9)
    assert found.resampled == {}  # one image
    assert found.noise > 0  # of the seeds
    whole = [record(*LAMBDAS, seed=seed) for seed in (0, 1)], [record(*LAMBDAS, db=0.5)]
    assert found == bd_rate_interval(*whole, samples=20)
    joined, together = (
        lagrangian_interval(*sides, lambdas=LAMBDAS, samples=20)
        for sides in ((anchor, curve), whole)
    )
    assert joined == together


def test_what_does_not_belong_together_is_not_joined() -> None:
    for others, words in (
        ([record(LAMBDAS[0], seed=1)], "two are at lambda 0.002"),
        ([record(LAMBDAS[1], steps=20)], "steps is 10 and 20"),
        ([record(LAMBDAS[1], model="wider")], "different architectures"),
        ([record(LAMBDAS[1], images="q")], "different sets of images"),
    ):
        with pytest.raises(LabError, match=words):
            join_records([record(LAMBDAS[0]), *others])
    wider = join_records([record(LAMBDAS[0]), record(LAMBDAS[1], model="wider")], "both")
    assert (wider.name, len(wider.points)) == ("both", 2)
    with pytest.raises(LabError, match="no records"):
        join_records([])
    with pytest.raises(LabError, match="was trained for"):
        lagrangian_cost(record(*LAMBDAS), (0.1, 0.2, 0.3))
    with pytest.raises(LabError, match="trained differently: steps is 10 and 20"):
        bd_rate_interval([record(*LAMBDAS), record(*LAMBDAS, steps=20)], [record(*LAMBDAS)])


def test_of_two_points_at_one_rate_the_better_one_counts() -> None:
    again = record(*LAMBDAS, known=False)
    points = (*again.points, record(LAMBDAS[0], db=-1, known=False).points[0])
    curve = again.model_copy(update={"points": points}).curve()
    assert curve.bpp == (0.1, 0.2, 0.4)
    assert curve.psnr_db[0] == pytest.approx(28)

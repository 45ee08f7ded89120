import copy
import math
import pickle

import numpy as np
import pytest
from pydantic import ValidationError

from tcm_lab.errors import LabError
from tcm_lab.evaluation import (
    BdRate,
    RdCurve,
    bd_psnr,
    bd_rate,
    lagrangian_cost,
    lagrangian_percent,
    published_curve,
    published_curves,
)

# BD-rate on Kodak against the VTM file of CompressAI's results, recomputed independently from the
# points in RD_data.md of jmliu206/LIC_TCM.
PUBLISHED = {
    "tcm-large": {"cubic": -12.09, "pchip": -11.73, "akima": -11.76},
    "tcm-medium": {"cubic": -9.41, "pchip": -9.11, "akima": -9.18},
    "tcm-small": {"cubic": -7.17, "pchip": -6.69, "akima": -6.85},
    # From the points in their own repositories.
    "mlicpp": {"pchip": -15.02},
    "cca": {"pchip": -13.73},
    "dcae": {"pchip": -16.98},
    "hpcm-base": {"pchip": -16.02},
    "hpcm-large": {"pchip": -19.95},
    "elic2022": {"pchip": -7.02},
}


@pytest.mark.parametrize(
    ("model", "method", "percent"),
    [(m, k, value) for m, methods in PUBLISHED.items() for k, value in methods.items()],
)
def test_bd_rate_gives_the_published_figures(model: str, method: str, percent: float) -> None:
    result = bd_rate(published_curve("vtm"), published_curve(model), method)  # type: ignore[arg-type]
    assert result.percent == pytest.approx(percent, abs=0.01)
    assert result.method == method
    assert result.anchor == "vtm"


def test_the_published_points_are_those_of_their_source() -> None:
    # RD_data.md, first and last row of each Kodak table
    large = published_curve("tcm-large")
    assert (large.bpp[0], large.psnr_db[0]) == (0.155, 30.07)
    assert (large.bpp[-1], large.psnr_db[-1]) == (0.88, 38.07)
    assert all(curve.source for curve in published_curves().values())
    assert len(published_curve("tcm-small", "tecnick")) == 6
    with pytest.raises(LabError, match="Did you mean tcm-large"):
        published_curve("tcm-lage")


@pytest.mark.parametrize("method", ["pchip", "cubic", "akima"])
def test_a_curve_at_a_constant_share_of_the_rate_saves_exactly_that(method: str) -> None:
    anchor = RdCurve(bpp=[0.1, 0.2, 0.4, 0.8, 1.6], psnr_db=[26, 29, 32, 35, 38])
    cheaper = RdCurve(bpp=[0.8 * value for value in anchor.bpp], psnr_db=anchor.psnr_db)
    result = bd_rate(anchor, cheaper, method)  # type: ignore[arg-type]
    assert result.percent == pytest.approx(-20)
    assert float(result) == result.percent
    assert result.overlap_db == pytest.approx(12)
    assert result.overlap == pytest.approx(1)
    # 3 dB per octave of rate: 0.8 of the rate is worth 3 * log2(1 / 0.8) dB
    assert bd_psnr(anchor, cheaper, method) == pytest.approx(3 * math.log2(1 / 0.8))  # type: ignore[arg-type]


def test_the_result_survives_copying_and_pickling() -> None:
    result = bd_rate(published_curve("vtm"), published_curve("tcm-large"))
    json = BdRate.model_validate_json(result.model_dump_json())
    for twin in (copy.copy(result), pickle.loads(pickle.dumps(result)), json):
        assert twin == result
        assert (twin.method, twin.overlap_db) == (result.method, result.overlap_db)


@pytest.mark.parametrize("better", ["tcm-large", "tcm-medium", "tcm-small"])
def test_every_comparison_takes_the_anchor_first(better: str) -> None:
    vtm, curve = published_curve("vtm"), published_curve(better)
    pair = [
        RdCurve(bpp=which.bpp[:4], psnr_db=which.psnr_db[:4], name=which.name)
        for which in (vtm, curve)
    ]
    lambdas = [0.0067, 0.013, 0.025, 0.05]
    assert bd_rate(*pair).percent < 0 < bd_psnr(*pair)
    cheaper = RdCurve(bpp=[0.9 * value for value in vtm.bpp[:4]], psnr_db=vtm.psnr_db[:4])
    assert lagrangian_percent(pair[0], cheaper, lambdas=lambdas) < 0
    assert lagrangian_percent(cheaper, pair[0], lambdas=lambdas) > 0
    with pytest.raises(TypeError):
        lagrangian_percent(pair[0], cheaper, lambdas)  # type: ignore[misc]


def test_a_comparison_that_cannot_be_made_is_refused_with_the_reason() -> None:
    anchor = RdCurve(bpp=[0.1, 0.2, 0.4], psnr_db=[26, 29, 32], name="a")
    with pytest.raises(LabError, match="1 points are too few"):
        bd_rate(anchor, RdCurve(bpp=[0.1], psnr_db=[27]))
    with pytest.raises(LabError, match="needs 4"):
        bd_rate(anchor, anchor, "cubic")
    with pytest.raises(LabError, match="curves a and curve do not overlap"):
        bd_rate(anchor, RdCurve(bpp=[1, 2], psnr_db=[35, 38]))
    with pytest.raises(LabError, match=r"share only 0\.50 dB"):
        bd_rate(anchor, RdCurve(bpp=[0.3, 0.6], psnr_db=[31.5, 34.5]))
    with pytest.raises(LabError, match=r"share only a factor of 2\.00 of rate"):
        bd_psnr(anchor, RdCurve(bpp=[0.2, 0.9], psnr_db=[30, 36]), min_overlap=0.9)
    with pytest.raises(LabError, match="does not rise"):
        bd_rate(anchor, RdCurve(bpp=[0.1, 0.2], psnr_db=[30, 28]))
    with pytest.raises(LabError, match="no interpolation is called 'linear'"):
        bd_rate(anchor, anchor, "linear")  # type: ignore[arg-type]


def test_a_fit_that_leaves_all_bounds_is_refused() -> None:
    steep = RdCurve(bpp=[0.1, 0.2, 0.3, 0.4], psnr_db=[30, 30.000001, 30.000002, 33], name="steep")
    plain = RdCurve(bpp=[0.1, 0.2, 0.3, 0.4], psnr_db=[30, 31, 32, 33])
    assert math.isfinite(bd_rate(plain, steep).percent)
    with pytest.raises(LabError, match="and steep: the fit by akima diverges"):
        bd_rate(plain, steep, "akima")


def test_a_curve_sorts_its_points_and_refuses_impossible_ones() -> None:
    curve = RdCurve(bpp=[0.4, 0.1], psnr_db=[32, 26])
    assert curve.bpp == (0.1, 0.4)
    assert curve.psnr_db == (26, 32)
    for kind in (np.float32, np.int64):
        curve = RdCurve(bpp=np.array([4, 1], kind), psnr_db=np.array([32, 26], kind))
        assert (curve.bpp, curve.psnr_db) == ((1, 4), (26, 32))
    for bpp, psnr_db in (([0.1], [1, 2]), ([], []), ([-1], [30]), ([1, 1], [3, 4])):
        with pytest.raises(ValidationError):
            RdCurve(bpp=bpp, psnr_db=psnr_db)


def test_the_lagrangian_cost_is_the_mean_logarithm_of_the_losses() -> None:
    curve = RdCurve(bpp=[0.5, 1.0], psnr_db=[30, 40])
    expected = (math.log(0.5 + 0.01 * 255**2 * 1e-3) + math.log(1 + 0.1 * 255**2 * 1e-4)) / 2
    assert lagrangian_cost(curve, [0.01, 0.1]) == pytest.approx(expected)
    with pytest.raises(LabError, match="3 for 2 points"):
        lagrangian_cost(curve, [1, 2, 3])


def test_the_lagrangian_percent_is_the_change_of_every_loss_if_all_change_alike() -> None:
    base = RdCurve(bpp=[0.5, 1.0], psnr_db=[30, 40])
    better = RdCurve(
        bpp=[0.45, 0.9], psnr_db=[value - 10 * math.log10(0.9) for value in base.psnr_db]
    )
    assert lagrangian_percent(base, better, lambdas=[0.01, 0.1]) == pytest.approx(-10)
    assert lagrangian_percent(base, base, lambdas=[0.01, 0.1]) == 0


@pytest.mark.parametrize("missing", ["bpp", "psnr_db"])
def test_a_curve_without_one_of_its_lists_says_which(missing: str) -> None:
    lists = {"bpp": [0.1, 0.2], "psnr_db": [30.0, 31.0]}
    del lists[missing]
    with pytest.raises(ValidationError, match=f"{missing}\n.*required"):
        RdCurve.model_validate(lists)

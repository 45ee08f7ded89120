import numpy as np
import pytest

from tcm_lab._utils.environment import environment
from tcm_lab.analysis import (
    ErfMap,
    ErfMeasures,
    WindowGrid,
    grid_visibility,
    measure_erf,
    reach_ratio,
)
from tcm_lab.errors import LabError


def field(
    scores: np.ndarray,
    centre: tuple[float, float],
    *,
    pitch_px: float = 1,
    convolutions: np.ndarray | None = None,
    grids: tuple[WindowGrid, ...] = (),
    name: str = "a",
) -> ErfMap:
    return ErfMap(
        model="m",
        of="y",
        wrt="image",
        method="frobenius",
        probes=0,
        seed=0,
        images=(name,),
        position=(0, 0),
        centre=centre,
        pitch_px=pitch_px,
        scores=scores / scores.sum(),
        standard_error=np.zeros_like(scores),
        convolutions=np.ones_like(scores) if convolutions is None else convolutions,
        grids=grids,
        environment=environment(),
    )


def gaussian(size: int, sigma: tuple[float, float], angle: float = 0) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size // 2.0
    u, v = np.cos(angle) * y + np.sin(angle) * x, np.cos(angle) * x - np.sin(angle) * y
    return np.exp(-(u**2) / (2 * sigma[0] ** 2) - v**2 / (2 * sigma[1] ** 2))


def test_an_even_map_holds_each_share_in_the_square_of_that_area() -> None:
    measures = measure_erf(field(np.ones((101, 101)), (50, 50)), shares=(0.2, 0.5, 0.99, 1.0))
    for share, side in {0.2: 47, 0.5: 73, 0.99: 101, 1.0: 101}.items():
        assert side**2 >= share * 101**2 > (side - 2) ** 2
        assert measures.side_px[share].value == side
        assert measures.area[share].value == pytest.approx((side / 101) ** 2)


def test_squares_are_centred_between_positions_where_the_field_is() -> None:
    scores = np.zeros((8, 8))
    scores[3:5, 3:5] = 1
    measures = measure_erf(field(scores, (3.5, 3.5), pitch_px=16), shares=(0.2, 0.99))
    assert measures.side_px[0.2].value == measures.side_px[0.99].value == 2 * 16
    assert measures.radius_px.value == pytest.approx(16 * np.sqrt(0.5))


def test_a_gaussian_has_its_known_radius_axes_and_quantiles() -> None:
    sigma = 12.0
    round_one = measure_erf(field(gaussian(161, (sigma, sigma)), (80, 80)), shares=(0.5, 0.95))
    assert round_one.radius_px.value == pytest.approx(np.sqrt(2) * sigma, rel=1e-3)
    assert round_one.anisotropy.value == pytest.approx(1, abs=1e-4)
    # Both coordinates lie within a: erf(a / (√2 σ))² = share.
    for share, a in {0.5: 1.0520, 0.95: 2.2365}.items():
        assert round_one.side_px[share].value == pytest.approx(2 * a * sigma, abs=2)
    for angle in (0, 0.5, 1.2):
        long = measure_erf(field(gaussian(201, (20.0, 10.0), angle), (100, 100)))
        assert long.anisotropy.value == pytest.approx(2, rel=1e-3)


def test_measures_do_not_depend_on_the_scale_of_the_scores() -> None:
    scores = gaussian(61, (5.0, 7.0))
    measures = [measure_erf(field(scale * scores, (30, 30))) for scale in (1, 1e-12, 1e9)]
    for other in measures[1:]:
        for share, side in measures[0].side_px.items():
            assert other.side_px[share] == side
        assert other.anisotropy.value == pytest.approx(measures[0].anisotropy.value, rel=1e-5)


def test_the_share_within_the_convolutions_is_what_falls_on_their_field() -> None:
    scores, inside = np.ones((10, 10)), np.zeros((10, 10))
    inside[:4] = 1
    measures = measure_erf(field(scores, (5, 5), convolutions=inside))
    assert measures.within_convolutions.value == pytest.approx(0.4)


def test_a_map_that_steps_where_windows_meet_shows_the_grid_and_a_smooth_one_does_not() -> None:
    grid = WindowGrid(layer="a", window_size=16, offset=8, pitch=2)
    smooth = gaussian(128, (25.0, 25.0))
    seen = grid_visibility(field(smooth, (64, 64)), grid)
    assert seen == pytest.approx(1, abs=0.1)
    stepped = smooth.copy()
    # Windows of 8 tokens of 2 pixels, the first at token 4: they meet at pixels 7, 23, 39 …
    stepped *= 1 + ((np.arange(128) + 9) // 16 % 2)[:, None]
    stepped *= 1 + ((np.arange(128) + 9) // 16 % 2)[None, :]
    assert grid_visibility(field(stepped, (64, 64)), grid) > 5
    other = grid.model_copy(update={"offset": 0.0})
    assert grid_visibility(field(stepped, (64, 64)), other) < 1


def test_the_interval_comes_from_the_images_and_closes_for_equal_ones() -> None:
    narrow, wide = gaussian(81, (4.0, 4.0)), gaussian(81, (12.0, 12.0))
    equal = measure_erf([field(narrow, (40, 40), name=str(i)) for i in range(4)])
    assert equal.radius_px.low == equal.radius_px.high == equal.radius_px.value
    maps = [field(s, (40, 40), name=str(i)) for i, s in enumerate([narrow, wide] * 4)]
    mixed = measure_erf(maps, seed=5)
    assert mixed.images == 8
    assert mixed.radius_px.low < mixed.radius_px.value < mixed.radius_px.high
    # Means of eight draws between 16 and 144 about 80: a binomial's spread.
    squares = (mixed.radius_px.low**2 / 2, mixed.radius_px.high**2 / 2)
    assert squares == pytest.approx((16 + 128 / 8, 144 - 128 / 8), rel=0.15)
    assert mixed == measure_erf(maps, seed=5)
    assert ErfMeasures.model_validate_json(mixed.model_dump_json()) == mixed


def test_shares_out_of_range_are_refused() -> None:
    with pytest.raises(LabError, match="at most 1"):
        measure_erf(field(np.ones((4, 4)), (2, 2)), shares=(1.2,))


def test_a_field_twice_as_wide_reaches_twice_as_far_on_every_resample() -> None:
    sizes = (4.0, 7.0, 10.0)
    narrow, wide = (
        [
            field(gaussian(161, (times * size, times * size)), (80, 80), name=str(i))
            for i, size in enumerate(sizes)
        ]
        for times in (1, 2)
    )
    radius = reach_ratio(wide, narrow)
    assert (radius.low, radius.value, radius.high) == pytest.approx((2, 2, 2), rel=5e-3)
    side = reach_ratio(wide, narrow, 0.5)
    assert side.value == pytest.approx(2, rel=0.15)
    # The images' own spread, far larger than the ratio's, is not in it.
    alone = measure_erf(narrow).radius_px
    assert alone.high / alone.low > 1.5
    with pytest.raises(LabError, match="different images"):
        reach_ratio(wide, narrow[:2])
    with pytest.raises(LabError, match="no maps"):
        reach_ratio([], [])
    with pytest.raises(LabError, match="different method"):
        reach_ratio(wide, [narrow[0].model_copy(update={"method": "sum"}), *narrow[1:]])

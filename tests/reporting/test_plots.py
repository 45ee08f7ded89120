"""Plots: well-formed, the same bytes each time, with units, names and marks; nothing hidden."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from records import complexity, rd

from tcm_lab.complexity import DevicePeak
from tcm_lab.errors import LabError
from tcm_lab.evaluation import published_curve
from tcm_lab.reporting import (
    AgreementPoint,
    ParetoPoint,
    PlotAxis,
    RdSeries,
    RooflinePoint,
    agreement_plot,
    cost_by_part_plot,
    cost_size_plot,
    figure_svg,
    macs_parameters_plot,
    pareto_chart,
    pareto_front,
    pareto_plot,
    plot_of,
    rd_plot,
    roofline_plot,
    save_figure,
    series_of_records,
)
from tcm_lab.reporting.plots import palette
from tcm_lab.reporting.plots._style import label_axes, looks, new_figure, stacked_bars, style
from tcm_lab.stats import Interval

X, Y = PlotAxis(name="cost", unit="kMAC/px"), PlotAxis(name="Lagrangian cost", unit="%")


def points() -> list[ParetoPoint]:
    figures = [(40.0, 0.3), (43.0, -1.9), (46.0, -2.2), (49.0, -0.1), (52.0, 1.5)]
    front = pareto_front(figures)
    return [
        ParetoPoint(
            x=x,
            y=y,
            label=f"split = {i / 4}",
            y_interval=(y - 0.5, y + 0.5),
            front=front[i],
            baseline=i == 2,
        )
        for i, (x, y) in enumerate(figures)
    ]


def every_plot() -> dict[str, Figure]:
    records = [complexity("a"), complexity("b", scale=3)]
    sizes = [complexity("a", size=(side, 2 * side)) for side in (64, 128, 256)]
    vtm = published_curve("vtm")
    published = RdSeries(label="vtm", bpp=vtm.bpp, quality=vtm.psnr_db, role="published")
    device_peaks = [RooflinePoint(label="g_a", macs=10**9, bytes_moved=10**7, ms=20.0)]
    return {
        "pareto": pareto_plot(points(), X, Y),
        "rd": rd_plot([series_of_records([rd("m")]), published]),
        "parts": cost_by_part_plot(records),
        "parameters": macs_parameters_plot(records),
        "size": cost_size_plot(sizes),
        "roofline": roofline_plot(device_peaks, DevicePeak(gmacs_per_s=100, gbytes_per_s=10)),
    }


def test_every_plot_is_a_well_formed_svg_of_the_same_bytes_each_time_without_a_date() -> None:
    again = every_plot()
    for name, figure in every_plot().items():
        svg = figure_svg(figure)
        root = ET.fromstring(svg)
        assert root.tag.endswith("svg")
        assert svg == figure_svg(again[name]), name
        assert not re.search(r"20\d\d-\d\d-\d\d", svg)


def test_both_files_are_written_and_are_the_same_each_time(tmp_path: Path) -> None:
    first = save_figure(pareto_plot(points(), X, Y), tmp_path / "new" / "front.v1")
    second = save_figure(pareto_plot(points(), X, Y), tmp_path / "again")
    assert [path.name for path in first] == ["front.v1.png", "front.v1.svg"]
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()
    with Image.open(first[0]) as image:
        assert image.width == 1050  # a column of 3.5 inches at 300 dots


def shown_texts(figure: Figure) -> list[Text]:
    """Every text that is drawn; ticks beyond the axes' limits are not."""
    figure.draw_without_rendering()
    beyond: set[Text] = set()
    for axes in figure.axes:
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not min(low, high) <= tick.get_loc() <= max(low, high):
                    beyond |= {tick.label1, tick.label2}
    texts = figure.findobj(Text)
    return [t for t in texts if t.get_text().strip() and t.get_visible() and t not in beyond]  # type: ignore[attr-defined]  # findobj's stub says Artist


def test_no_text_lies_outside_its_figure() -> None:
    for name, figure in every_plot().items():
        for text in shown_texts(figure):
            box = Text.get_window_extent(text)
            for x, y in ((box.x0, box.y0), (box.x1, box.y1)):
                assert -2 <= x <= figure.bbox.x1 + 2, (name, text)
                assert -2 <= y <= figure.bbox.y1 + 2, (name, text)


def test_names_beside_points_do_not_hide_each_other() -> None:
    crowded = [
        ParetoPoint(x=40 + 0.5 * i, y=1 - 0.05 * i, label=f"variant {i}", front=True)
        for i in range(8)
    ]
    figure = pareto_plot(crowded, X, Y)
    boxes = [Text.get_window_extent(t) for t in shown_texts(figure) if "variant" in t.get_text()]
    assert len(boxes) == 8
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_names_are_placed_clear_of_thirty_points_and_the_lines_between_them() -> None:
    rng = np.random.default_rng(0)
    many = [
        ParetoPoint(x=float(x), y=float(y), label=f"v{i}", front=True)
        for i, (x, y) in enumerate(np.sort(rng.random((30, 2)), axis=0))
    ]
    figure = pareto_plot(many, X, Y, width=7.0, height=5.0)
    names = [t for t in shown_texts(figure) if t.get_text().startswith("v")]
    boxes = [Text.get_window_extent(t) for t in names]
    assert len(boxes) == 30
    places = figure.axes[0].transData.transform([(p.x, p.y) for p in many])
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert not any(box.contains(*place) for place in places)


def test_beside_agreement_all_variants_are_named_and_of_many_the_eight_farthest() -> None:
    ends = [Interval(value=i, low=i - 1, high=i + 1) for i in range(20)]
    many = [AgreementPoint(label=f"#{i}", predicted=e, trained=e) for i, e in enumerate(ends)]
    named = [text.get_text() for text in agreement_plot(many[:16], X, Y).axes[0].texts]
    assert named == [point.label for point in many[:16]]
    named = [text.get_text() for text in agreement_plot(many, X, Y).axes[0].texts]
    assert named == [f"#{i}" for i in (0, 1, 2, 3, 16, 17, 18, 19)]


def test_axes_say_their_units() -> None:
    axes = pareto_plot(points(), X, Y).axes[0]
    assert axes.get_xlabel() == "cost (kMAC/px)"
    assert axes.get_ylabel() == "Lagrangian cost (%)"
    axes = rd_plot([series_of_records([rd()])]).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("rate (bpp)", "PSNR (dB)")


def test_plots_leave_the_callers_style_alone() -> None:
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 31.0}):
        every_plot()
        assert mpl.rcParams["font.size"] == 31.0


def test_the_front_is_what_no_other_row_dominates() -> None:
    rows = [(1.0, 5.0), (2.0, 3.0), (2.0, 3.0), (3.0, 3.0), (4.0, 1.0), (0.0, float("nan"))]
    assert pareto_front(rows) == [True, True, True, False, True, False]
    assert pareto_front([]) == []


def test_the_drawn_front_borders_what_it_dominates_in_this_plane() -> None:
    places = ((10.0, 0.0), (12.0, 2.0), (14.0, -1.0))  # the second is best in something else
    points = [ParetoPoint(x=x, y=y, front=True) for x, y in places]
    over = ParetoPoint(x=9.0, y=-3.0, infeasible=True)
    cost, quality = PlotAxis(name="MACs"), PlotAxis(name="Lagrangian cost")
    axes = pareto_plot([*points, over], cost, quality).axes[0]
    ends = {tuple(map(float, at)) for line in axes.lines for at in line.get_xydata()}
    assert ends == {(10.0, 0.0), (14.0, 0.0), (14.0, -1.0)}
    assert over.kind == "over a constraint"
    axis_values = [{"kind": "gated", "name": "a", "x": "1"} for _ in places]
    chart = pareto_chart(points, cost, quality, details=axis_values)
    rows = chart["data"]["values"]
    assert [(row["x"], row["kind"]) for row in rows] == [(x, "Pareto front") for x, _ in places]
    assert all(row["axis kind"] == "gated" for row in rows)


def test_bars_end_at_each_records_total() -> None:
    axes = cost_by_part_plot([complexity("a"), complexity("b", scale=3)]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["313.0", "939.0"]
    ends = sorted({round(bar.get_x() + bar.get_width(), 6) for bar in axes.patches})  # type: ignore[attr-defined]
    assert ends[-1] == 939


def test_points_of_a_roofline_stand_at_their_intensity_and_speed() -> None:
    point = RooflinePoint(label="g_a", macs=4 * 10**9, bytes_moved=10**8, ms=50.0)
    axes = roofline_plot([point], DevicePeak(gmacs_per_s=100, gbytes_per_s=10)).axes[0]
    (drawn,) = axes.collections
    assert drawn.get_offsets().tolist() == [[4e9 / 1e8, 4e9 / 0.05 / 1e9]]
    (roof,) = (line for line in axes.lines if len(line.get_xdata()) == 3)
    assert roof.get_xdata()[1] == 100 / 10  # MACs a byte, from which on memory is fast enough
    assert roof.get_ydata()[1] == 100


def test_several_seeds_give_a_band_and_one_gives_none() -> None:
    one = series_of_records([rd()])
    assert one.low is None
    both = series_of_records([rd(), rd(db=1.0)], label="two seeds")
    assert both.quality == pytest.approx((30.5, 32.5, 34.5))
    assert both.low == pytest.approx((30, 32, 34))
    assert both.high == pytest.approx((31, 33, 35))


def test_ms_ssim_of_images_that_are_too_small_is_refused() -> None:
    with pytest.raises(LabError, match="ms_ssim_db is unknown"):
        series_of_records([rd(side=100)], quality="ms_ssim_db")


def test_published_points_have_no_line_and_anchors_no_markers() -> None:
    curves = [
        RdSeries(label=role, bpp=(0.1, 0.2), quality=(30, 31), role=role)  # type: ignore[arg-type]
        for role in ("measured", "baseline", "anchor", "published")
    ]
    lines = {str(line.get_label()): line for line in rd_plot(curves).axes[0].lines}
    assert lines["published"].get_linestyle() == "None"
    assert lines["anchor"].get_marker() == "None"
    assert lines["baseline"].get_color() == "black"


def test_colours_differ_in_lightness_or_hue_for_colour_blind_readers() -> None:
    colors = palette(6)
    assert len(set(colors)) == 6
    # Luma of the linear mix that deuteranopes and protanopes still see, plus the blue they do.
    seen = []
    for color in colors:
        red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
        seen.append(np.array([0.5 * (red + green), blue]))
    gaps = [np.abs(a - b).max() for i, a in enumerate(seen) for b in seen[:i]]
    assert min(gaps) > 15


def test_a_plot_without_a_suitable_record_is_refused() -> None:
    with pytest.raises(LabError, match="needs a rate-distortion record"):
        plot_of("rd", [complexity()])
    with pytest.raises(LabError, match="needs a complexity record"):
        plot_of("parts", [rd()])
    with pytest.raises(LabError, match="needs a complexity and a timing record"):
        plot_of("roofline", [complexity()])
    with pytest.raises(LabError, match="no parts with a product"):
        plot_of("parts", [complexity().model_copy(update={"parts": {}})])
    with pytest.raises(LabError, match="Did you mean roofline"):
        plot_of("rooflin", [complexity()])  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize("ends", [(310, 480), (12, 13), (3, 3), (0.02, 300), (1e-5, 1e7)])
def test_a_logarithmic_axis_has_numbers_however_much_or_little_it_spans(
    ends: tuple[float, float],
) -> None:
    with style():
        figure, axes = new_figure()
        label_axes(axes, PlotAxis(name="steps", log=True), PlotAxis(name="cost"))
        axes.plot(ends, (0, 1))
        figure.draw_without_rendering()
    low, high = axes.get_xlim()
    places = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    shown = [(at, label.get_text()) for at, label in places if low <= at <= high]
    assert 2 <= len(shown) <= 20
    assert all(float(text) == pytest.approx(at) for at, text in shown)


def test_no_two_of_many_series_look_alike() -> None:
    found = [(look["color"], look["marker"]) for look in looks(100)]
    assert len(set(found)) == 100
    assert len(set(found[:10])) == len({color for color, _ in found[:10]}) == 10


def test_no_two_of_many_parts_of_a_bar_look_alike() -> None:
    parts = {f"slice {i}": [1.0, 2.0] for i in range(10)} | {"z": [1.0, 1.0]}
    figure = stacked_bars(parts, ["a", "b"], X, form=".1f")
    bars = figure.axes[0].patches[::2]
    assert len({(to_hex(bar.get_facecolor()), bar.get_hatch()) for bar in bars}) == len(parts)


def test_a_long_title_has_several_lines() -> None:
    figure = plot_of("parts", [complexity("a")], title="what the parts of a codec cost " * 4)
    figure.draw_without_rendering()
    title = figure.axes[0].get_title(loc="left")
    assert " ".join(title.split()) == ("what the parts of a codec cost " * 4).strip()
    (text,) = (t for t in figure.findobj(Text) if t.get_text() == title)
    assert text.get_window_extent().x1 <= figure.bbox.x1


def test_two_designs_of_one_name_are_two_curves_over_the_size() -> None:
    sizes = ((64, 64), (128, 128))
    base = [complexity(size=size) for size in sizes]
    variant = [complexity(size=size, scale=3) for size in sizes]
    variant = [record.model_copy(update={"fingerprint": "e" * 12}) for record in variant]
    lines = plot_of("size", [*base, *variant]).axes[0].lines
    assert [line.get_label() for line in lines] == ["m", "m #2"]
    assert [list(line.get_ydata()) for line in lines] == [[313, 313], [939, 939]]


def test_one_model_at_several_sizes_is_named_with_them() -> None:
    records = [complexity("a", size=size) for size in ((64, 64), (128, 256))]
    bars = cost_by_part_plot(records).axes[0]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["a, 64x64", "a, 128x256"]
    texts = macs_parameters_plot(records).axes[0].texts
    named = {" ".join(text.get_text().split()) for text in texts}
    assert named == {"a, 64x64", "a, 128x256"}

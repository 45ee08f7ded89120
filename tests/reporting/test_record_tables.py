"""Tables of records hold what the records' own arithmetic gives, and say under which conditions."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from records import complexity, rd, timing

from tcm_lab.codec import load_config
from tcm_lab.complexity import TimeRatio, TimingOptions, measure_complexity, published_figures
from tcm_lab.errors import LabError
from tcm_lab.evaluation import ImageResult, RdCurve, RdRecord, measured_curves, published_curve
from tcm_lab.reporting import (
    WITHOUT_HEADERS,
    Row,
    Table,
    axis_table,
    bd_rate_table,
    beside_table,
    complexity_table,
    plot_of,
    published_beside,
    rd_table,
    read_records,
    records_json,
    render,
    roofline_points,
    stage_table,
    tables_of,
    timing_table,
)
from tcm_lab.stats import Interval


def values(table: Table, row: int = 0) -> dict[str, object]:
    return dict(table.rows[row].values)


@pytest.mark.parametrize(
    ("convention", "whole", "encode", "decode"),
    [
        ("all", 313, 13, 310),
        ("no-attention-products", 311, 11, 310),
        ("conv-linear-only", 111, 11, 110),
    ],
)
def test_totals_are_the_sums_of_the_kinds_that_a_convention_counts(
    convention: str, whole: float, encode: float, decode: float
) -> None:
    row = values(complexity_table([complexity()], convention=convention))  # type: ignore[arg-type]
    assert row["kmacs_per_px"] == pytest.approx(whole)
    assert row["encode_kmacs_per_px"] == pytest.approx(encode)
    assert row["decode_kmacs_per_px"] == pytest.approx(decode)
    assert row["gmacs"] == pytest.approx(whole * 1e3 * 100 * 200 / 1e9)
    assert row["parameters"] == 1_000_500
    assert row["conv_linear_parameters"] == 1_000_000


def test_parts_sum_to_the_whole_and_normalisation_is_listed_beside_the_sum() -> None:
    parts = values(complexity_table([complexity()], detail="parts"))
    assert [parts[f"{part}_kmacs_per_px"] for part in ("g_a", "h_s", "g_s")] == [3, 10, 300]
    assert parts["kmacs_per_px"] == 313
    kinds = values(complexity_table([complexity()], detail="kinds"))
    assert kinds["normalisation_kmacs_per_px"] == 1
    assert sum(v for k, v in kinds.items() if k.count("_") > 2) - 1 == kinds["kmacs_per_px"]  # type: ignore[misc]


def test_sizes_have_a_column_only_where_they_differ_and_padding_is_stated() -> None:
    one = complexity_table([complexity("a"), complexity("b")])
    assert "size" not in [column.key for column in one.columns]
    assert "100x200 to 128x256" in " ".join(one.footer)
    two = complexity_table([complexity(), complexity(size=(64, 64))])
    assert [row.values["size"] for row in two.rows] == ["100x200", "64x64"]


def test_the_footer_names_no_torch_where_formulas_counted() -> None:
    footer = " ".join(complexity_table([complexity()]).footer)
    assert "tcm-lab 0" in footer
    assert "torch" not in footer


def test_the_footer_names_every_version_that_counted() -> None:
    old, new = (
        complexity().model_copy(update={"counter": "torch", "versions": {"torch": version}})
        for version in ("8", "9")
    )
    assert complexity_table([new, old]).footer[-1] == "Counted by torch; torch 8 or 9."


def test_published_figures_stand_in_rows_of_their_own_with_their_source() -> None:
    theirs = Row(values={"model": "m", "gmacs": 7.0, "bpp": 1.0}, source="A paper")
    table = complexity_table([complexity()], published=[theirs])
    assert table.rows[0].source == ""
    assert table.rows[1].source == "A paper"
    assert table.rows[1].values == {"model": "m", "gmacs": 7.0}


def test_what_was_reported_of_tcm_large_comes_beside_it_only_at_its_size() -> None:
    def keys(size: tuple[int, int]) -> set[str]:
        record = complexity("tcm-large", size=size)
        assert published_beside([record], published_figures()) == []  # of another fingerprint
        of_large = {"fingerprint": load_config("tcm-large").fingerprint}
        found = published_beside([record.model_copy(update=of_large)], published_figures())
        assert found
        return {key for published in found for key in published.values}

    assert {"kmacs_per_px", "encode_gmacs", "decode_gmacs"} <= keys((512, 768))
    assert "encode_gmacs" not in keys((256, 256))


def test_a_published_figure_says_which_convention_it_is_closest_to() -> None:
    large = measure_complexity("tcm-large")
    found = published_beside([large], published_figures())
    sources = {
        (key, value): published.source
        for published in found
        for key, value in published.values.items()
    }
    assert sources["gmacs", 701].endswith("closest to convention conv-linear-only")
    assert sources["kmacs_per_px", 1823.58].endswith("closest to convention no-attention-products")
    assert ("conv_linear_parameters", 75_890_000) in sources
    assert ("parameters", 76_570_000) in sources


def test_an_axis_is_compared_with_its_baseline() -> None:
    records = {"1": complexity(), "3": complexity(scale=3)}
    table = axis_table("split", records, "1")
    assert [row.values["kmacs_per_px"] for row in table.rows] == [313, 939]
    assert [row.values["kmacs_per_px_change_percent"] for row in table.rows] == [
        0,
        pytest.approx(200),
    ]
    assert [row.marks for row in table.rows] == [("baseline",), ()]
    with pytest.raises(LabError, match=r"split = 2: no record of it\. Known: 1 or 3"):
        axis_table("split", records, "2")


def test_points_of_a_roofline_join_counts_and_times_of_one_model() -> None:
    cost = complexity()
    written = {"g_a": 1000, "g_s": 500}
    parts = {part: replace(cost.parts[part], activations=n) for part, n in written.items()}
    cost = cost.model_copy(update={"parts": {**cost.parts, **parts}})
    g_a, g_s = roofline_points(cost, timing())
    pixels = 100 * 200 * 1000
    assert (g_a.label, g_a.macs, g_a.ms) == ("g_a", 3 * pixels, 9.0)
    assert g_a.bytes_moved == 4 * (1_000_500 + 1000)
    assert (g_s.label, g_s.macs, g_s.ms, g_s.bytes_moved) == ("g_s", 300 * pixels, 18.0, 4 * 500)
    with pytest.raises(LabError, match="one model at one size"):
        roofline_points(complexity(size=(8, 8)), timing())


def test_a_counter_without_activations_gives_no_roofline() -> None:
    # Its parts would seem to move their weights alone, and to have many times the intensity.
    cost = measure_complexity("tcm-nano", (64, 64), counter="fvcore")
    times = timing().model_copy(update={"fingerprint": cost.fingerprint, "size": cost.size})
    with pytest.raises(LabError, match="fvcore counts no activations"):
        roofline_points(cost, times)


def test_times_have_quartiles_stages_shares_and_no_date() -> None:
    table = timing_table([timing()])
    assert values(table)["encode_ms"] == Interval(value=10, low=9, high=12, level=0.5)
    assert values(table)["decode_ms"] == Interval(value=20, low=18, high=24, level=0.5)
    assert "2020" not in render(table, "markdown") + render(table, "json")
    stages = stage_table([timing()])
    shares = {row.values["stage"]: row.values.get("encode_percent") for row in stages.rows}
    assert shares == {
        "g_a": pytest.approx(90),
        "g_s": None,
        "other": pytest.approx(10),
        "whole": pytest.approx(100),
    }


def test_conditions_that_differ_are_columns_and_shared_ones_stand_below() -> None:
    slow = timing().model_copy(update={"options": TimingOptions(precision="bfloat16")})
    table = timing_table([timing(), slow])
    assert [row.values["precision"] for row in table.rows] == ["float32", "bfloat16"]
    assert "a processor, 2 threads" in table.footer[1]
    assert "float32" not in table.footer[1]
    assert "are not comparable" in table.footer[0]


def test_ratios_stand_beside_the_model_that_they_are_of() -> None:
    ratio = TimeRatio(
        model="b",
        baseline="a",
        scope="decode",
        ratio=Interval(value=0.5, low=0.4, high=0.6),
    )
    table = timing_table([timing("a"), timing("b")], [ratio])
    assert table.rows[0].marks == ("baseline",)
    assert "decode_ratio" not in table.rows[0].values
    assert table.rows[1].values["decode_ratio"] == Interval(value=0.5, low=0.4, high=0.6)
    assert "95%" in table.footer[0]


def test_points_of_evaluations_are_their_means_and_the_gap_is_stated() -> None:
    table = rd_table([rd()], published=[published_curve("vtm")])
    assert values(table)["bpp"] == pytest.approx(0.1)
    assert values(table)["gap_percent"] == pytest.approx(1.0)
    assert values(table)["ms_ssim_db"] == pytest.approx(20)
    assert table.rows[3].source == published_curve("vtm").source


def test_a_perfect_ms_ssim_is_a_hundred_decibels() -> None:
    (image,) = rd().points[0].images
    for ms_ssim, db in ((1.0, 100.0), (0.99, pytest.approx(20)), (None, None)):
        alone = image.model_copy(update={"ms_ssim": ms_ssim})
        assert rd().points[0].model_copy(update={"images": (alone,)}).ms_ssim_db == db


def test_a_column_that_no_evaluation_fills_is_left_out() -> None:
    assert "ms_ssim_db" not in [column.key for column in rd_table([rd(side=100)]).columns]


def test_evaluations_on_different_images_are_not_put_into_one_table_or_plot() -> None:
    with pytest.raises(LabError, match="2 different sets of images"):
        rd_table([rd(), rd(images="q")])
    with pytest.raises(LabError, match="2 different sets of images"):
        beside_table(measured_curves([rd()]), [rd("jpeg", images="q")])
    with pytest.raises(LabError, match="2 different sets of images"):
        plot_of("rd", [rd(), rd(images="q")])


def test_bd_rates_of_the_published_points_are_the_published_ones() -> None:
    large = published_curve("tcm-large")
    table = bd_rate_table({"tcm-large": large}, published_curve("vtm"))
    row = values(table)
    assert row["cubic_bd_rate_percent"] == pytest.approx(-12.09, abs=0.01)
    assert row["pchip_bd_rate_percent"] == pytest.approx(-11.73, abs=0.01)
    assert row["akima_bd_rate_percent"] == pytest.approx(-11.76, abs=0.01)


def with_headers(record: RdRecord, bits: int, **changes: Any) -> RdRecord:
    """Return a record whose bits are payloads now, in files that hold so many more."""

    def longer(image: ImageResult) -> ImageResult:
        counts = {"payload_bits": image.bits, "bits": image.bits + bits}
        return image.model_copy(update=counts | changes)

    points = tuple(
        point.model_copy(update={"images": tuple(map(longer, point.images))})
        for point in record.points
    )
    return record.model_copy(update={"points": points})


def test_a_codec_beside_jpeg_is_compared_without_the_headers_of_either() -> None:
    own = with_headers(rd("own"), 8 * 53)
    jpeg = with_headers(rd("jpeg"), 8 * 350, estimated_bits=None)
    table = beside_table(measured_curves([own]), [jpeg])
    for row, payload in zip(table.rows, (0.1, 0.2, 0.4), strict=True):
        assert row.values["bpp"] == pytest.approx(payload + 8 * 53 / 200**2)
        assert row.values["payload_bpp"] == pytest.approx(payload)
        assert row.values["jpeg_payload_bpp"] == pytest.approx(payload)
        assert row.values["jpeg_percent"] == pytest.approx(0, abs=1e-9)
    assert table.footer[0] == "BD-rate of own against jpeg: +0.0 % over 4.0 dB."
    assert any(WITHOUT_HEADERS in line for line in table.footer)
    earlier = with_headers(rd("jpeg"), 8 * 350, estimated_bits=None, payload_bits=None)
    with pytest.raises(LabError, match="jpeg: its record is from an earlier version"):
        beside_table(measured_curves([own]), [earlier])


def test_bd_rates_say_what_their_rates_count() -> None:
    own = rd("own").curve(counted="payload")
    assert WITHOUT_HEADERS in bd_rate_table({"own": own}, own).footer
    files = bd_rate_table({"own": rd("own").curve()}, published_curve("vtm")).footer
    assert any("whole files" in line and "published" in line for line in files)


def test_a_refused_bd_rate_is_empty_and_says_why_below() -> None:
    far = rd(db=20).curve()
    table = bd_rate_table({"far": far}, rd().curve())
    assert values(table) == {"model": "far"}
    assert any(line.startswith("far: ") for line in table.footer)


def test_every_interpolation_that_refuses_says_why() -> None:
    few = rd().curve()  # of three points
    footer = bd_rate_table({"few": few}, few).footer
    reasons = [line for line in footer if line.startswith("few: ")]
    assert len(reasons) == 2
    for method, reason in zip(("cubic", "akima"), reasons, strict=True):
        assert f"3 points are too few for a Bjontegaard delta by {method}" in reason
    rising, falling = (
        RdCurve(bpp=[0.1, 0.2, 0.3, 0.4], psnr_db=[first, 29, 31, 32]) for first in (28, 30)
    )
    footer = bd_rate_table({"falling": falling}, rising).footer
    assert len([line for line in footer if "PSNR does not rise" in line]) == 1


def test_records_written_are_read_back_whole(tmp_path: Path) -> None:
    records = [complexity(), timing(), rd()]
    path = tmp_path / "records.json"
    path.write_text(records_json(records))
    assert read_records(path) == records
    path.write_text(rd().model_dump_json())
    assert read_records(path) == [rd()]
    titles = [table.title for table in tables_of(read_records(path))]
    assert titles == ["Rate and distortion"]


def test_the_json_of_costs_begins_with_the_figures_that_people_ask_for() -> None:
    entry = json.loads(records_json([complexity()], convention="conv-linear-only"))[0]
    assert entry["kmacs_per_px"] == 111
    assert entry["parts_kmacs_per_px"] == {"g_a": 1, "h_s": 10, "g_s": 100}
    assert entry["kinds_kmacs_per_px"]["gdn"] == 200
    assert entry["conventions"]["all"]["kmacs_per_px"] == {
        "whole": 313,
        "encode": 13,
        "decode": 310,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "holds no record"),
        ('{"a": 1}', "not a complexity, timing or rate-distortion record"),
        ("[1]", "not a complexity"),
        ('{"record": 5}', "not a complexity"),
        ("[" * 100_000, "not JSON"),
        ("1" * 5000, "not JSON"),
        (rd().model_copy(update={"points": ()}).model_dump_json(), "points = .*at least 1"),
        (rd().model_dump_json().replace('"height":200', '"height":0', 1), "height = 0: .*than 0"),
    ],
)
def test_a_file_without_records_is_refused_by_name(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(LabError, match=message) as refusal:
        read_records(path)
    assert "x.json" in str(refusal.value)


def test_a_record_with_a_wrong_field_is_refused_by_field(tmp_path: Path) -> None:
    tree = complexity().model_dump(mode="json")
    tree["weight_bytes"] = "many"
    path = tmp_path / "x.json"
    path.write_text(json.dumps(tree))
    with pytest.raises(LabError, match="weight_bytes"):
        read_records(path)


def test_a_record_that_lacks_a_scope_is_refused(tmp_path: Path) -> None:
    tree = complexity().model_dump(mode="json")
    del tree["absent"]["whole"]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(tree))
    with pytest.raises(LabError, match=r"absent = .*must be at least 3 long"):
        read_records(path)


def test_no_records_are_no_table() -> None:
    for make in (complexity_table, timing_table, stage_table, rd_table, tables_of):
        with pytest.raises(LabError, match="no records given"):
            make([])  # type: ignore[operator]


def test_csv_of_costs_has_the_counts_whole() -> None:
    text = render(complexity_table([complexity()]), "csv")
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["parameters"] == "1000500"

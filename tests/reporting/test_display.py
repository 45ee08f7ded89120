"""Values in a notebook: records, curves, tables and figures show themselves, and become frames."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser

import pytest
from IPython.lib.pretty import pretty
from records import complexity, rd, timing

from tcm_lab.evaluation import RdCurve, measured_curves
from tcm_lab.reporting import (
    Column,
    Row,
    Table,
    complexity_table,
    rd_plot,
    rd_table,
    render,
    series_of_records,
)
from tcm_lab.stats import Interval
from tcm_lab.training import Recipe


class Words(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.feed(text)

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (complexity_table([complexity("a < b")]), ["a < b"]),
        (complexity(), ["g_a", "h_s", "g_s"]),
        (timing(), ["g_a", "g_s", "whole"]),
        (rd(), ["0.1000", "34.00"]),
        (measured_curves([rd()])[0], ["0.1000"]),
        (RdCurve(bpp=(0.1, 0.2), psnr_db=(30, 31), name="x", source="a paper"), ["x", "a paper."]),
    ],
)
def test_a_value_shows_itself_as_a_table(value: object, words: list[str]) -> None:
    fragment = value._repr_html_()  # type: ignore[attr-defined]
    assert fragment.lstrip().startswith('<div class="tcm-lab">')
    shown = Words(fragment).words
    for word in words:
        assert any(word in each for each in shown), word


def test_a_value_without_a_table_is_shown_as_text() -> None:
    assert Recipe(steps=1)._repr_html_() is None
    assert pretty(Recipe(steps=1)) == repr(Recipe(steps=1))


def test_a_console_shows_a_record_as_its_table() -> None:
    assert pretty(rd()) == render(rd_table([rd()]), "markdown")


def test_showing_a_value_needs_nothing_imported_before() -> None:
    program = (
        "from tcm_lab.evaluation import RdCurve; import sys\n"
        "assert 'tcm_lab.reporting' not in sys.modules\n"
        "print(RdCurve(bpp=(0.1,), psnr_db=(30,))._repr_html_())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "<table>" in done.stdout, done.stderr


def test_a_plot_is_a_picture_of_a_size_that_suits_a_page() -> None:
    png, size = rd_plot([series_of_records([rd()])])._repr_png_()
    assert png.startswith(b"\x89PNG")
    assert 400 < size["width"] < 600


def test_frames_hold_the_numbers_of_records_and_tables() -> None:
    costs = complexity().to_frame()
    assert costs["macs"].sum() == complexity().whole.total_macs
    assert costs["parameters"].sum() == complexity().total_parameters
    images = rd().to_frame()
    assert list(images["bpp"]) == list(rd().bpp)
    assert list(images["rate"]) == [0, 1, 2]
    times = timing().to_frame()
    assert times.query("direction == 'decode' and stage == 'whole'")["median_ms"].item() == 20
    interval = Interval(value=1.0, low=0.5, high=2.0, resampled={"images": 3})
    columns = [Column(key="name", header="name"), Column(key="gain", header="gain", format=".1f")]
    rows = [Row(values={"name": "a", "gain": interval}), Row(values={"name": "b"})]
    frame = Table(title="t", columns=columns, rows=rows).to_frame()
    assert list(frame.columns) == ["name", "gain", "gain_low", "gain_high"]
    assert frame["gain_high"].tolist()[0] == 2.0

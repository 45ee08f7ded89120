"""A report in a real browser: what a reader sees, points at and clicks.

It needs playwright and a Chromium on the PATH, and is skipped where either is missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from records import rd

from tcm_lab.reporting import (
    Column,
    ParetoPoint,
    PlotAxis,
    PlotImage,
    Row,
    Section,
    Table,
    figure_svg,
    pareto_chart,
    pareto_plot,
    rd_chart,
    rd_plot,
    render_report,
    series_of_records,
)

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), "")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the PATH")

COST = PlotAxis(name="MACs", unit="kMAC/px")
QUALITY = PlotAxis(name="rate [saved]", unit="%")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with a chart of each kind and a table of thirty columns."""
    names = [f"#{i}" for i in range(1, 7)]
    points = [
        ParetoPoint(
            x=10 + 5 * i, y=3.0 - i, label=name, y_interval=(2.0 - i, 4.0 - i), front=i > 2,
            baseline=i == 0, partial=i == 1,
        )
        for i, name in enumerate(names)
    ]  # fmt: skip
    series = [series_of_records([rd()], label="#1"), series_of_records([rd(db=1)], label="#2")]
    pareto = PlotImage(
        figure_svg(pareto_plot(points, COST, QUALITY)), "Variants",
        chart=pareto_chart(points, COST, QUALITY, details=[{"block": f"b{i}"} for i in range(6)]),
    )  # fmt: skip
    curves = PlotImage(figure_svg(rd_plot(series)), "Curves", chart=rd_chart(series))
    columns = [Column(key="number", header="#", format="d")]
    columns += [
        Column(key=f"c{i}", header=f"a long header {i}", group=f"group {i // 8}", format=".2f")
        for i in range(30)
    ]
    rows = [
        Row(values={"number": i, **{f"c{k}": 1.5 * k for k in range(30)}}, name=name)
        for i, name in enumerate(names, 1)
    ]
    table = Table(title="Variants", columns=columns, rows=rows)
    sections = [Section("Variants", (pareto, table)), Section("Curves", (curves,))]
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_report("A search", ["Found."], sections), encoding="utf-8")
    return path


class Seen:
    """A page that is open, with everything that the browser said and asked for."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.said, self.asked = page, list[str](), list[str]()
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(address)
        page.wait_for_selector("figure.chart .drawn svg.marks")
        page.wait_for_function("views.length === 2")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.parametrize("width", [390, 1400, 2560])
def test_a_page_fits_its_window_says_nothing_and_loads_nothing(
    browser: Any, report: Path, width: int
) -> None:
    seen = Seen(browser.new_page(viewport={"width": width, "height": 900}), report.as_uri())
    assert seen.said == []
    assert [url for url in seen.asked if not url.startswith(("file:", "data:"))] == []
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    box = seen.page.locator(".scroll")
    last = seen.page.locator("tbody tr:first-child td:last-child")
    box.evaluate("box => box.scrollTo(box.scrollWidth, 0)")
    assert last.bounding_box()["x"] + last.bounding_box()["width"] <= width
    first = seen.page.locator("tbody tr:first-child th")
    edge = box.bounding_box()["x"]
    assert edge <= first.bounding_box()["x"] < edge + 4  # it stays while the others move
    assert seen.page.locator("figure.chart > svg").first.is_hidden()
    seen.page.close()


def test_a_point_is_named_on_hover_and_its_row_found_on_click(browser: Any, report: Path) -> None:
    seen = Seen(browser.new_page(viewport={"width": 1400, "height": 900}), report.as_uri())
    page = seen.page
    point = page.locator("figure.chart").first.locator(".mark-symbol path[aria-label]").nth(3)
    point.hover()
    tip = page.locator("#vg-tooltip-element")
    tip.wait_for(state="visible")
    words = tip.inner_text()
    for word in ("#4", "25", "0 [-1, 1]", "b3", "rate [saved] (%)"):
        assert word in words
    point.click()
    assert page.locator("tr.selected").get_attribute("data-row") == "#4"
    assert page.evaluate("views.map((view) => view.signal('chosen'))") == ["#4", "#4"]
    page.locator("tr[data-row='#2'] td").first.click()
    assert page.locator("tr.selected").get_attribute("data-row") == "#2"
    page.keyboard.press("Escape")
    assert page.locator("tr.selected").count() == 0
    assert seen.said == []
    page.close()


def test_a_chart_zooms_under_the_pointer_with_ctrl_and_leaves_the_wheel_alone_without(
    browser: Any, report: Path
) -> None:
    seen = Seen(browser.new_page(viewport={"width": 1400, "height": 900}), report.as_uri())
    page = seen.page
    chart = page.locator("figure.chart .drawn svg").first
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 3)
    width = "(() => { const d = views[0].scale('x').domain(); return d[1] - d[0]; })()"
    before = page.evaluate(width)
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(150)
    assert page.evaluate(width) == before
    page.evaluate("scrollTo(0, 0)")
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    page.wait_for_function(f"{width} < {before}")
    page.close()

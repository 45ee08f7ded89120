"""A report in a real browser: what a reader sees, points at and clicks.

It needs playwright and a Chromium on the PATH, and is skipped where either is missing.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from records import rd

from tcm_lab.reporting import (
    Column,
    Comparison,
    ParetoPoint,
    PlotAxis,
    PlotImage,
    Row,
    Section,
    ShownImage,
    Table,
    figure_svg,
    image_bytes,
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

PATIENCE_MS = 300_000  # playwright's own is 30 s, which a busy machine may take to draw a page
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
    shown = [
        ShownImage(image_bytes(np.full((48, 64, 3), grey, np.uint8)), name, f"{grey / 1000} bpp")
        for name, grey in (("original", 250), ("#2", 100), ("#4", 10))
    ]
    images = Comparison(tuple(shown), "kodim01.png", "At the middle rate.")
    sections = [
        Section("Variants", (pareto, table)),
        Section("Curves", (curves,)),
        Section("Images", (images,)),
    ]
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
        page.set_default_timeout(PATIENCE_MS)
        page.goto(address)
        page.wait_for_selector("figure.chart .drawn svg.marks")
        page.wait_for_function("views.length === 2")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE_MS
        )
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
    if width > 2000:  # a table this wide takes more than the page's own width
        assert box.bounding_box()["width"] > seen.page.locator("body").bounding_box()["width"]
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


def greys(stage: Any) -> list[int]:
    """Return what stands at an eighth, at three and at seven eighths of a stage's width."""
    with Image.open(io.BytesIO(stage.screenshot())) as shot:
        grey, (width, height) = shot.convert("L"), shot.size
        places = (width // 8, 3 * width // 8, 7 * width // 8)
        return [int(grey.getpixel((place, height // 2))) for place in places]


@pytest.mark.parametrize("width", [390, 1400])
def test_the_border_between_two_images_follows_keys_pointer_and_choice(
    browser: Any, report: Path, width: int
) -> None:
    seen = Seen(browser.new_page(viewport={"width": width, "height": 900}), report.as_uri())
    page = seen.page
    stage, border = page.locator(".stage"), page.locator(".stage input")
    assert greys(stage) == [250, 250, 100]
    border.focus()
    page.keyboard.press("Home")
    assert greys(stage) == [100, 100, 100]
    page.keyboard.press("End")
    assert greys(stage) == [250, 250, 250]
    assert border.get_attribute("aria-valuetext") == "100 % original, the rest #2"
    box = stage.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.9 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.25 * box["width"], middle, steps=4)
    page.mouse.up()
    assert greys(stage) == [250, 100, 100]
    page.locator(".sides select").nth(1).select_option("#4")
    assert greys(stage) == [250, 10, 10]
    page.locator("tr[data-row='#2'] td").first.click()  # a row, or a point of a chart
    assert greys(stage) == [250, 100, 100]
    assert page.locator(".comparison figure").count() == 0
    assert stage.bounding_box()["width"] <= width
    assert seen.said == []
    page.close()


def test_a_finger_moves_the_border_and_still_scrolls_the_page(browser: Any, report: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(report.as_uri())
    stage = page.locator(".stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    page.touchscreen.tap(box["x"] + 0.25 * box["width"], box["y"] + box["height"] / 2)
    assert page.locator(".stage input").input_value() == "25"
    assert stage.evaluate("stage => getComputedStyle(stage).touchAction") == "pan-y"
    context.close()


def test_without_scripts_the_images_stand_beside_each_other(browser: Any, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(report.as_uri())
    figures = page.locator(".comparison figure")
    assert figures.count() == 3
    assert figures.nth(1).inner_text() == "#2: 0.1 bpp"
    assert figures.nth(2).locator("img").get_attribute("alt") == "kodim01.png, #4"
    context.close()

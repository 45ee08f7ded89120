"""Pages: self-contained, escaped, with headings in order, alt texts and unique names."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from records import complexity, rd

from tcm_lab.reporting import (
    Code,
    PlotImage,
    Section,
    complexity_table,
    cost_by_part_plot,
    figure_svg,
    rd_plot,
    render_report,
    series_of_records,
)


def a_page() -> str:
    table = complexity_table([complexity("<script>alert(1)</script>")])
    parts = PlotImage(
        figure_svg(cost_by_part_plot([complexity()])), 'Bars "by part" & <more>', "One"
    )
    curves = PlotImage(figure_svg(rd_plot([series_of_records([rd()])])), "Curves")
    return render_report(
        "Study & <others>",
        ["The best is 0.25."],
        [
            Section("Table", (table, "A <paragraph>.")),
            Section("Plots", (parts, curves, parts)),
            Section("Again", (Code("a < b", "Command"), Code("x: 1", "front.yaml", folded=True))),
        ],
        footer=["tcm-lab 0"],
    )


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def parsed(page: str) -> _Elements:
    elements = _Elements()
    elements.feed(page)
    return elements


def test_a_page_needs_nothing_from_outside() -> None:
    page = a_page()
    assert not re.search(r"https?:|//\w|@import", page)
    for _, attributes in parsed(page).elements:
        for name in ("href", "src"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))


def test_every_text_is_escaped() -> None:
    page = a_page()
    assert "<script>alert" not in page
    assert "Study &amp; &lt;others&gt;" in page
    assert "A &lt;paragraph&gt;." in page
    assert "a &lt; b" in page
    assert len(parsed(page).of("script")) == 1


def test_names_are_unique_and_every_reference_has_its_target() -> None:
    page = a_page()
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names))
    referred = {*re.findall(r'href="#([^"]+)"', page), *re.findall(r"url\(#([^)]+)\)", page)}
    assert referred <= set(names)
    assert "section-1" in referred


def test_images_have_alternative_texts_and_grow_with_the_page() -> None:
    images = parsed(a_page()).of("svg")
    assert [svg["aria-label"] for svg in images][:2] == ['Bars "by part" & <more>', "Curves"]
    for svg in images:
        assert svg["role"] == "img"
        assert "viewBox".lower() in svg
        assert "width" not in svg


def test_headings_tables_and_boxes_can_be_reached_without_a_mouse() -> None:
    page = parsed(a_page())
    assert len(page.of("h1")) == 1
    assert len(page.of("h2")) == 3
    (box,) = [d for d in page.of("div") if d.get("class") == "scroll"]
    assert box["tabindex"] == "0"
    assert box["role"] == "region"
    assert all(pre.get("tabindex") == "0" for pre in page.of("pre"))
    assert page.of("html") == [{"lang": "en"}]
    assert any(meta.get("name") == "viewport" for meta in page.of("meta"))


def test_a_page_is_the_same_bytes_each_time() -> None:
    assert a_page() == a_page()

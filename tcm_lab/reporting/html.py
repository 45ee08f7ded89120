"""One self-contained HTML page of tables, plots and text: no file beside it, no address in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from itertools import groupby
from typing import TypeAlias

from tcm_lab.reporting.tables import Table


@dataclass(frozen=True)
class PlotImage:
    """A plot in a page.

    Attributes:
        svg: what ``figure_svg`` returns.
        alt: what somebody who can't see it should know.
        caption: one line under it.
    """

    svg: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Code:
    """Text to be copied, such as a command or YAML.

    Attributes:
        text: as it stands.
        title: one line over it.
        folded: whether it is shown on a click only.
    """

    text: str
    title: str = ""
    folded: bool = False


Piece: TypeAlias = str | Table | PlotImage | Code


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; a plain string is a paragraph."""

    heading: str
    pieces: tuple[Piece, ...]


def render_report(
    title: str, lead: Sequence[str], sections: Sequence[Section], *, footer: Sequence[str] = ()
) -> str:
    """Return a whole page; every text is escaped.

    Args:
        title: heading of the page.
        lead: paragraphs under it: what was found, in words.
        sections: one heading each, also listed at the top where there are several.
        footer: conditions and the command that makes the page again; one paragraph each.
    """
    anchors = [f"section-{number}" for number in range(1, len(sections) + 1)]
    images = _Numbers()
    body = [f"<header><h1>{escape(title)}</h1>", *map(_paragraph, lead), "</header>"]
    if len(sections) > 1:
        links = "".join(
            f'<li><a href="#{anchor}">{escape(section.heading)}</a></li>'
            for anchor, section in zip(anchors, sections, strict=True)
        )
        body.append(f'<nav aria-label="Contents"><ul>{links}</ul></nav>')
    body.append("<main>")
    for anchor, section in zip(anchors, sections, strict=True):
        body.append(f'<section aria-labelledby="{anchor}">')
        if section.heading:
            body.append(f'<h2 id="{anchor}">{escape(section.heading)}</h2>')
        body += _pieces(section.pieces, images)
        body.append("</section>")
    body.append("</main>")
    if footer:
        body += ["<footer>", *map(_paragraph, footer), "</footer>"]
    return _page(title, "\n".join(body))


def page_of(table: Table) -> str:
    """Return a page with ``table`` alone."""
    alone = table.model_copy(update={"title": ""})
    name = table.title or "Table"
    return _page(name, f"<main><h1>{escape(name)}</h1>\n{_scrolling(alone, name)}</main>")


class _Numbers:
    """Counts the images of a page, whose names inside must differ."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        self._last += 1
        return self._last


def _page(title: str, body: str) -> str:
    style, script = _asset("page.css"), _asset("page.js")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"{body}\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


@cache
def _asset(name: str) -> str:
    return (files("tcm_lab.reporting") / name).read_text(encoding="utf-8")


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _pieces(pieces: Sequence[Piece], images: _Numbers) -> Iterator[str]:
    """Yield the pieces' elements; neighbouring images share a row where there is room."""
    for is_image, run in groupby(pieces, key=lambda piece: isinstance(piece, PlotImage)):
        if is_image:
            yield '<div class="figures">'
        for piece in run:
            if isinstance(piece, str):
                yield _paragraph(piece)
            elif isinstance(piece, Table):
                yield _scrolling(piece, piece.title or "Table")
            elif isinstance(piece, PlotImage):
                yield _figure(piece, images.next())
            else:
                yield _code(piece)
        if is_image:
            yield "</div>"


def _scrolling(table: Table, name: str) -> str:
    """Put a table into a box that scrolls by itself, by keyboard too."""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(name)}">\n'
        f"{table.to_html()}</div>"
    )


def _code(code: Code) -> str:
    block = f'<pre tabindex="0"><code>{escape(code.text)}</code></pre>'
    if code.folded:
        return f"<details><summary>{escape(code.title)}</summary>{block}</details>"
    return (f'<p class="code-title">{escape(code.title)}</p>' if code.title else "") + block


def _figure(image: PlotImage, number: int) -> str:
    caption = f"<figcaption>{escape(image.caption)}</figcaption>" if image.caption else ""
    return f"<figure>{inline_svg(image.svg, image.alt, f'p{number}')}{caption}</figure>"


def inline_svg(svg: str, alt: str, prefix: str) -> str:
    """Return an SVG document as an element of a page.

    Its prologue, metadata and namespaces go, which a page has no use for and which are addresses;
    its names get a prefix, since two plots would share them; it grows and shrinks with the page.
    """
    start = svg.index("<svg")
    inner = re.sub(r"<metadata>.*?</metadata>", "", svg[start:], flags=re.DOTALL)
    inner = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", inner)
    inner = inner.replace("xlink:href=", "href=")
    inner = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', inner)
    inner = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", inner)
    inner = re.sub(r'\bhref="#([^"]+)"', rf'href="#{prefix}-\1"', inner)
    opening = inner[: inner.index(">")]
    width = re.search(r'width="([\d.]+)pt"', opening)
    sized = re.sub(r'\s(width|height)="[^"]*"', "", opening)
    # Points to CSS pixels, and a half more, so that type is as large as the page's own.
    limit = f' style="max-width:{round(float(width[1]) * 2)}px"' if width else ""
    label = f' role="img" aria-label="{escape(alt)}"{limit}'
    return sized + label + inner[len(opening) :]

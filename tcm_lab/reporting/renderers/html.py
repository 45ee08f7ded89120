"""Self-contained HTML pages of tables, plots and text, without other files or addresses."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count, groupby
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from tcm_lab.reporting.table import MARKS, PUBLISHED, Table, number

if TYPE_CHECKING:
    from jinja2 import Environment

Spec: TypeAlias = Mapping[str, Any]
"""A Vega-Lite specification."""


@dataclass(frozen=True)
class PlotImage:
    """A plot in a page.

    Attributes:
        svg: the result of ``figure_svg``.
        alt: a description for readers who cannot see the plot.
        caption: one line below the plot.
        chart: the plot as a Vega-Lite specification, which replaces it if scripts run.
    """

    svg: str
    alt: str
    caption: str = ""
    chart: Spec | None = None


@dataclass(frozen=True)
class Code:
    """Text to copy, such as a command or YAML.

    Attributes:
        text: the text, verbatim.
        title: one line above the text.
        folded: whether the text is shown only after a click.
    """

    text: str
    title: str = ""
    folded: bool = False


@dataclass(frozen=True)
class ShownImage:
    """One of the images of a comparison.

    Attributes:
        data: the result of ``image_bytes``.
        name: ``original``, or the variant's name in tables and charts.
        note: rate and quality of the image.
    """

    data: bytes
    name: str
    note: str = ""

    @property
    def address(self) -> str:
        """The image as a data URL."""
        kind = "png" if self.data.startswith(b"\x89PNG") else "webp"
        return f"data:image/{kind};base64,{base64.b64encode(self.data).decode()}"

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        with Image.open(io.BytesIO(self.data)) as image:
            return image.size


@dataclass(frozen=True)
class Comparison:
    """Images of the same size, of which a reader overlays any two and moves the border.

    Attributes:
        images: images, the original first; without scripts they are shown side by side.
        title: subject of the images.
        caption: one line below the images.
    """

    images: tuple[ShownImage, ...]
    title: str
    caption: str = ""


def image_bytes(pixels: NDArray[np.uint8], kind: str = "") -> bytes:
    """Return pixels (H, W, 3) as a lossless file: WebP, or PNG if Pillow was built without WebP.

    Args:
        pixels: the image.
        kind: ``PNG`` to force that format.
    """
    file = io.BytesIO()
    kind = kind or ("WEBP" if features.check("webp") else "PNG")
    Image.fromarray(pixels).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


Piece: TypeAlias = str | Table | PlotImage | Code | Comparison

_KINDS: dict[type, str] = {
    str: "text",
    Table: "table",
    PlotImage: "plot",
    Code: "code",
    Comparison: "comparison",
}


@dataclass(frozen=True)
class Section:
    """A heading and its contents, in which a string is a paragraph."""

    heading: str
    pieces: tuple[Piece, ...]


def render_report(
    title: str, lead: Sequence[str], sections: Sequence[Section], *, footer: Sequence[str] = ()
) -> str:
    """Return a complete page; all text is escaped.

    Args:
        title: heading of the page.
        lead: paragraphs below the heading: the findings in words.
        sections: sections, also listed at the top if there are several.
        footer: conditions, and the command that makes the page again; one paragraph each.
    """
    from markupsafe import Markup

    numbers = count(1)

    def svg(image: PlotImage) -> Markup:
        return Markup(inline_svg(image.svg, str(Markup.escape(image.alt)), f"p{next(numbers)}"))

    pieces = [piece for section in sections for piece in section.pieces]
    draws = any(isinstance(piece, PlotImage) and piece.chart is not None for piece in pieces)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            lead=lead,
            sections=sections,
            footer=footer,
            runs=_runs,
            svg=svg,
            library=Markup(_vega()) if draws else "",
        )
    )


@cache
def _vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, so that a page works offline."""
    import vl_convert

    script: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub lacks the default
    return script.replace("</script", "<\\/script")


def html(tables: Sequence[Table]) -> str:
    """Return one page with all tables."""
    title = ", ".join(table.title for table in tables) or "Table"
    if len(tables) == 1:  # its title becomes the page's
        tables = [tables[0].model_copy(update={"title": ""})]
    return render_report(title, (), [Section(heading="", pieces=tuple(tables))])


def fragment(table: Table) -> str:
    """Return a table with its own style, for a notebook."""
    macros: Any = _environment().get_template("table.html.j2").module
    return str(macros.fragment(table))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tcm_lab.reporting", "renderers"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {"marks": MARKS, "published": PUBLISHED, "number": number}
    return environment


def _runs(pieces: Sequence[Piece]) -> Iterator[tuple[str, Iterator[Piece]]]:
    """Group neighbouring pieces of the same kind, so that plots share a row if they fit."""
    return groupby(pieces, key=lambda piece: _KINDS[type(piece)])


def inline_svg(svg: str, label: str, prefix: str) -> str:
    """Return an SVG document as an element that scales with its page.

    The prologue, metadata and namespaces are removed, since a page does not need them and they
    contain addresses. Ids get a prefix, since two plots may have the same ones.

    Args:
        svg: the document.
        label: alternative text, escaped.
        prefix: prefix of the ids.
    """
    inner = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    inner = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", inner)
    inner = inner.replace("xlink:href=", "href=")
    inner = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', inner)
    inner = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", inner)
    inner = re.sub(r'\bhref="#([^"]+)"', rf'href="#{prefix}-\1"', inner)
    opening = inner[: inner.index(">")]
    width = re.search(r'width="([\d.]+)pt"', opening)
    sized = re.sub(r'\s(width|height)="[^"]*"', "", opening)
    # From points to CSS pixels, and half as much again, so that type is as large as the page's.
    limit = f' style="max-width:{round(float(width[1]) * 2)}px"' if width else ""
    return f'{sized} role="img" aria-label="{label}"{limit}{inner[len(opening) :]}'

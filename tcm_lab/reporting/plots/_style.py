"""The style of every plot, the figures and panels that carry it, and their files.

Figures are made without pyplot, so nothing global is touched; the style holds while a figure is
made and while it is written. Type is sized for a plot printed as wide as a paper's column.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tcm_lab._utils import Frozen
from tcm_lab._utils.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_INCHES = 3.5
PAGE_INCHES = 7.16  # the width of a page of two columns
_DPI = 300
_LABEL_CHARACTERS = 34

INK, SOFT, RULE = "#1b1f24", "#57606a", "#d5dae0"

_STYLE: Mapping[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 7.5,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.4,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "axes.unicode_minus": True,
    "svg.hashsalt": "tcm_lab",
    "svg.fonttype": "path",
    "path.simplify": False,
}


class PlotAxis(Frozen):
    """An axis of a plot.

    Attributes:
        name: the quantity.
        unit: its unit.
        log: whether the scale is logarithmic.
        lower_is_better: whether low values are the good ones.
    """

    name: str
    unit: str = ""
    log: bool = False
    lower_is_better: bool = True

    @property
    def label(self) -> str:
        """The quantity with its unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


def palette(count: int) -> list[str]:
    """Return ``count`` colours of seaborn's ``colorblind`` palette; beyond ten they repeat."""
    import seaborn

    # Its grey and yellow come last: grey is for what is not ours, yellow is faint on white.
    ten = seaborn.color_palette("colorblind").as_hex()
    order = [0, 1, 2, 3, 4, 9, 5, 6, 8, 7]
    return [str(ten[order[index % len(order)]]) for index in range(count)]


MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")


def markers(count: int) -> list[str]:
    """Return ``count`` markers; beyond ten they repeat."""
    return [MARKERS[index % len(MARKERS)] for index in range(count)]


@contextmanager
def style() -> Iterator[None]:
    """Hold our style over the block, and leave the caller's as it was."""
    import matplotlib as mpl
    import seaborn

    with mpl.rc_context():
        mpl.rcdefaults()
        seaborn.set_theme(style="ticks", rc=dict(_STYLE))
        yield


def new_figure(
    title: str = "", *, width: float = COLUMN_INCHES, height: float = 2.7
) -> tuple[Figure, Axes]:
    """Return a figure, its sides in inches, with one pair of axes; call it inside `style`."""
    figure, (axes,) = panels(1, columns=1, height=height, width=width)
    if title:
        axes.set_title(title)
    return figure, axes


def panels(
    count: int, *, columns: int, height: float, width: float | None = None, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``count`` equal axes; call it inside `style`.

    Args:
        count: number of axes.
        columns: maximum number beside each other.
        height: inches of one row.
        width: inches of the figure; None is a column's for two panels a row, a page's for more.
        options: for ``Figure.subplots``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    wide = PAGE_INCHES if columns > 2 else COLUMN_INCHES
    figure = Figure(figsize=(width or wide, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid: list[Axes] = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for axes in grid[count:]:
        axes.remove()
    for axes in grid[:count]:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid[:count]


def stacked_bars(
    parts: Mapping[str, Sequence[float]],
    rows: Sequence[str],
    x: PlotAxis,
    *,
    form: str,
    title: str = "",
    width: float = COLUMN_INCHES,
) -> Figure:
    """Return a figure of one bar per row, stacked by part; call it inside `style`.

    Args:
        parts: by name, their length in each row.
        rows: names of the bars.
        x: what the length shows.
        form: of the total written at the end of a bar.
        title: over the plot.
        width: inches of the figure.
    """
    figure, axes = new_figure(title, width=width, height=1.1 + 0.3 * len(rows))
    places, left = range(len(rows)), np.zeros(len(rows))
    for (name, lengths), color in zip(parts.items(), palette(len(parts)), strict=True):
        axes.barh(
            places, lengths, left=left, color=color, label=name, height=0.7, ec="white", lw=0.3
        )
        left += lengths
    for place, total in zip(places, left, strict=True):
        axes.annotate(
            format(total, form),
            (total, place),
            (3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    axes.set_yticks(places, rows)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlim(0, left.max() * 1.16 or 1)
    axes.set_xlabel(x.label)
    figure.legend(
        loc="outside lower center", ncols=min(4, len(parts)), handlelength=1.0, columnspacing=1.0
    )
    return figure


def label_axes(axes: Axes, x: PlotAxis, y: PlotAxis) -> None:
    """Write the axes' names with units and set their scales."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    for axis, described, set_scale in (
        (axes.xaxis, x, axes.set_xscale),
        (axes.yaxis, y, axes.set_yscale),
    ):
        axis.set_label_text(textwrap.fill(described.label, _LABEL_CHARACTERS))
        if described.log:
            set_scale("log")
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            plain = ScalarFormatter()
            plain.set_scientific(False)
            axis.set_major_formatter(plain)
            axis.set_minor_formatter(NullFormatter())


def show_image(axes: Axes, image: NDArray[np.uint8], title: str = "") -> None:
    """Draw an image (H, W, 3) or (3, H, W) without ticks."""
    pixels = np.asarray(image)
    if pixels.shape[0] == 3:
        pixels = pixels.transpose(1, 2, 0)
    axes.imshow(pixels, interpolation="none")
    bare(axes, title)


def bare(axes: Axes, title: str = "") -> None:
    """Remove ticks and grid, which mean nothing on an image."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if title:
        axes.set_title(title, fontsize=7.5)


def colour_bar(figure: Figure, image: Any, axes: Sequence[Axes], label: str) -> Any:
    """Draw one colour bar for all ``axes`` and return it."""
    bar = figure.colorbar(image, ax=list(axes), fraction=0.05, pad=0.015, aspect=25)
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=6.5, width=0.4)
    bar.outline.set_linewidth(0.4)
    return bar


def plain_ticks(axis: Any, *, decades: bool = False) -> None:
    """Write a logarithmic axis' ticks without trailing zeros, only at powers of ten if asked."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    if decades:
        axis.set_major_locator(LogLocator(subs=(1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def figure_svg(figure: Figure) -> str:
    """Return the figure as an SVG document, the same bytes each time, on a clear background."""
    return _written(figure, "svg", transparent=True).decode()


def save_figure(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write ``stem``.png and ``stem``.svg, each wholly or not at all; no date is in them.

    Returns:
        The two paths.

    Raises:
        LabError: they can't be written.
    """
    png, svg = (stem.parent / f"{stem.name}.{kind}" for kind in ("png", "svg"))
    write_atomically(png, _written(figure, "png"))
    write_atomically(svg, _written(figure, "svg"))
    return png, svg


def _written(figure: Figure, kind: str, *, transparent: bool = False) -> bytes:
    import matplotlib as mpl

    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    file = io.BytesIO()
    with mpl.rc_context({name: _STYLE[name] for name in ("svg.hashsalt", "svg.fonttype")}):
        figure.savefig(file, format=kind, dpi=_DPI, metadata=metadata, transparent=transparent)
    return file.getvalue()

"""The style of every plot, styled figures and panels, and their files.

Figures are made without pyplot, so no global state changes; the style holds while a figure is made
and while it is written.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tcm_lab._utils import Frozen
from tcm_lab._utils.files import write_atomically

if TYPE_CHECKING:  # a study needs `PlotAxis`, but not matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

COLUMN_INCHES = 3.5
PAGE_INCHES = 7.16  # width of a two-column page
_DPI, _INLINE_DPI = 300, 140
_STYLE = Path(__file__).with_name("paper.mplstyle")
_LABEL_CHARACTERS = 34
_CHARACTER_EM = 0.55  # mean width of a character in the style's font, with some margin
_HANDLE_INCHES = 0.35  # width of a legend's handle before each label

INK, SOFT = "#1b1f24", "#57606a"  # as in the style's file
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")


class PlotAxis(Frozen):
    """An axis of a plot: its quantity and unit, its scale, and which direction is better."""

    name: str
    unit: str = ""
    log: bool = False
    lower_is_better: bool = True

    @property
    def label(self) -> str:
        """The quantity with its unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


def palette(count: int) -> list[str]:
    """Return ``count`` colours of seaborn's ``colorblind`` palette; after ten they repeat."""
    import seaborn

    # Its grey and yellow come last: grey means results of others, yellow is faint on white.
    colours = seaborn.color_palette("colorblind").as_hex()
    order = [0, 1, 2, 3, 4, 9, 5, 6, 8, 7]
    return [str(colours[order[index % len(order)]]) for index in range(count)]


def looks(count: int) -> list[dict[str, Any]]:
    """Return the ``color`` and ``marker`` of ``count`` series; up to a hundred differ."""
    period = len(MARKERS)  # as many as colours: each further period shifts the markers by one
    return [
        {"color": color, "marker": MARKERS[(i + i // period) % period]}
        for i, color in enumerate(palette(count))
    ]


@contextmanager
def style() -> Iterator[None]:
    """Apply our style to a block or a decorated function, then restore the caller's."""
    import matplotlib as mpl
    import seaborn

    with mpl.rc_context():
        mpl.rcdefaults()
        seaborn.set_theme(
            style="ticks", rc=mpl.rc_params_from_file(_STYLE, use_default_template=False)
        )
        yield


def new_figure(
    x: PlotAxis | None = None,
    y: PlotAxis | None = None,
    *,
    width: float = COLUMN_INCHES,
    height: float = 2.7,
) -> tuple[Figure, Axes]:
    """Return a figure (sides in inches) with one pair of axes; call it inside `style`."""
    figure, (axes,) = panels(1, columns=1, height=height, width=width)
    if x is not None and y is not None:
        label_axes(axes, x, y)
    return figure, axes


def panels(
    count: int, *, columns: int, height: float, width: float | None = None, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``count`` equal axes; call it inside `style`.

    Args:
        count: number of axes.
        columns: maximum number per row.
        height: height of one row in inches.
        width: width of the figure in inches; None is that of a column for up to two panels per row,
            and of a page for more.
        options: options of ``Figure.subplots``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    wide = PAGE_INCHES if columns > 2 else COLUMN_INCHES
    figure = Figure(figsize=(width or wide, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure._repr_png_ = partial(_inline, figure)  # type: ignore[attr-defined]  # read by IPython
    grid: list[Axes] = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for axes in grid[count:]:
        axes.remove()
    for axes in grid[:count]:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid[:count]


@style()
def map_panels(
    cells: Sequence[tuple[str, NDArray[Any] | None]],
    label: str,
    *,
    columns: int,
    height: float,
    low: float | None = None,
) -> Figure:
    """Return a figure of images and maps, with one scale and one colour bar for all maps.

    Args:
        cells: title and contents of each panel: an image (H, W, 3) or (3, H, W), a map (h, w), or
            None for an empty panel.
        label: label of the colour bar.
        columns: panels per row.
        height: height of one row in inches.
        low: lower end of the scale; None is the smallest value of any map.
    """
    maps = [cell for _, cell in cells if cell is not None and cell.ndim == 2]
    low = min(float(values.min()) for values in maps) if low is None else low
    high = max(float(values.max()) for values in maps)
    figure, grid = panels(len(cells), columns=columns, height=height, width=PAGE_INCHES)
    for axes, (title, cell) in zip(grid, cells, strict=True):
        bare(axes, title)
        if cell is not None and cell.ndim == 3:
            axes.imshow(channels_last(cell), interpolation="none")
        elif cell is not None:
            drawn = draw_map(axes, cell, vmin=low, vmax=high)
    colour_bar(figure, drawn, grid, label)
    return figure


def draw_map(axes: Axes, values: NDArray[Any], **options: Any) -> Any:
    """Draw a map (h, w) in our colours; ``options`` of ``imshow`` take precedence."""
    axes.grid(False)
    return axes.imshow(values, **{"cmap": "cividis", "interpolation": "none", **options})


def channels_last(image: NDArray[Any]) -> NDArray[Any]:
    """Return an image (H, W, 3) or (3, H, W) as (H, W, 3)."""
    return image.transpose(1, 2, 0) if image.shape[0] == 3 else image


def bare(axes: Axes, title: str = "") -> None:
    """Remove ticks and grid, which have no meaning on an image."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    name_axes(axes, title)


def name_axes(axes: Axes, title: str, share: float = 0.85) -> None:
    """Write a title above one of several equal axes, wrapped to their width.

    Args:
        axes: one of `panels`.
        title: one or several lines.
        share: share of the panel's width that is left for the axes by labels and a colour bar.
    """
    spec = axes.get_subplotspec()
    figure = axes.get_figure(root=True)
    assert spec is not None
    assert figure is not None
    inches = share * figure.get_figwidth() / spec.get_gridspec().ncols
    axes.set_title(wrapped(title, inches), fontsize=7.5)


def wrapped(text: str, inches: float, font_pt: float = 7.5) -> str:
    """Wrap each line of a text to a width in inches."""
    characters = max(6, int(72 * inches / (_CHARACTER_EM * font_pt)))
    return "\n".join(textwrap.fill(line, characters) for line in text.splitlines())


def colour_bar(figure: Figure, image: Any, axes: Sequence[Axes], label: str) -> None:
    """Draw one colour bar for all ``axes``."""
    bar = figure.colorbar(image, ax=list(axes), fraction=0.05, pad=0.015, aspect=25)
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=6.5, width=0.4)
    bar.outline.set_linewidth(0.4)


@style()
def stacked_bars(
    parts: Mapping[str, Sequence[float]], rows: Sequence[str], x: PlotAxis, *, form: str
) -> Figure:
    """Return a figure with one bar per row, stacked by part.

    Args:
        parts: length of each part in each row, by the part's name.
        rows: names of the bars.
        x: quantity that the lengths show.
        form: format of the total at the end of a bar.
    """
    figure, axes = new_figure(height=1.1 + 0.3 * len(rows))
    left = np.zeros(len(rows))
    colors = palette(len(parts))
    for i, (name, lengths) in enumerate(parts.items()):
        look: dict[str, Any] = {"color": colors[i], "height": 0.7, "ec": "white", "lw": 0.3}
        look["hatch"] = "/" * 5 if colors[i] in colors[:i] else ""
        bars = axes.barh(range(len(rows)), lengths, left=left, label=name, **look)
        left += lengths
    axes.bar_label(bars, [format(total, form) for total in left], padding=3, fontsize=7)
    half = figure.get_figwidth() / 2
    axes.set_yticks(range(len(rows)), [wrapped(row, half) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlim(0, left.max() * 1.16 or 1)
    axes.set_xlabel(x.label)
    legend_below(figure, min(4, len(parts)), handlelength=1.0)
    return figure


def legend_below(figure: Figure, columns: int, **options: Any) -> None:
    """Write the legend of all axes below them, in up to ``columns`` columns."""
    options = {"loc": "outside lower center", "columnspacing": 1.0, **options}
    fitted_legend(figure, figure.get_figwidth(), columns, **options)


def fitted_legend(owner: Figure | Axes, inches: float, columns: int, **options: Any) -> None:
    """Write a legend in as many columns as fit, and wrap its lines if a single one is too wide.

    Without labelled artists, no legend is drawn.

    Args:
        owner: figure or axes of the legend.
        inches: maximum width.
        columns: maximum number of columns.
        options: options of ``legend``.
    """
    figure = owner.get_figure(root=True)
    assert figure is not None
    for count in range(columns, 0, -1):
        legend = owner.legend(ncols=count, **options)
        if not legend.get_texts():
            legend.remove()
            return
        if legend.get_window_extent().width <= inches * figure.dpi:
            return
        if count > 1:
            legend.remove()
    for text in (*legend.get_texts(), legend.get_title()):
        text.set_text(wrapped(text.get_text(), inches - _HANDLE_INCHES, 7))


def label_axes(axes: Axes, x: PlotAxis, y: PlotAxis) -> None:
    """Label the axes with names and units, and set their scales."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    for axis, plot_axis, set_scale in (
        (axes.xaxis, x, axes.set_xscale),
        (axes.yaxis, y, axes.set_yscale),
    ):
        axis.set_label_text(textwrap.fill(plot_axis.label, _LABEL_CHARACTERS))
        if plot_axis.log:
            set_scale("log")
            axis.set_major_locator(log_ticks(1.0, 2.0, 5.0))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.12g}"))
            axis.set_minor_formatter(NullFormatter())


def log_ticks(*subs: float) -> Locator:
    """Return a locator of ticks on a logarithmic axis, at these multiples of powers of ten.

    If fewer than two of these are in view, because there are too many decades or too few, ticks are
    placed at powers of ten, or else evenly.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator

    others = (LogLocator(), MaxNLocator(4))

    class Ticks(LogLocator):
        def tick_values(self, vmin: float, vmax: float) -> Any:
            usual: Any = super().tick_values(vmin, vmax)
            candidates: list[Any] = [usual, *(other.tick_values(vmin, vmax) for other in others)]
            enough = (t for t in candidates if np.count_nonzero((t >= vmin) & (t <= vmax)) > 1)
            return next(enough, usual)

    return Ticks(subs=subs)


def figure_svg(figure: Figure) -> str:
    """Return the figure as a reproducible SVG document with a transparent background."""
    return _written(figure, "svg", transparent=True).decode()


def save_figure(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write ``stem``.png and ``stem``.svg without dates, each completely or not at all.

    Returns:
        The two paths.

    Raises:
        LabError: a file can't be written.
    """
    png, svg = (stem.parent / f"{stem.name}.{kind}" for kind in ("png", "svg"))
    write_atomically(png, _written(figure, "png"))
    write_atomically(svg, _written(figure, "svg"))
    return png, svg


def _inline(figure: Figure) -> tuple[bytes, dict[str, int]]:
    """Return the image that a notebook shows, and its displayed size in pixels."""
    width, height = (round(_INLINE_DPI * inches) for inches in figure.get_size_inches())
    return _written(figure, "png"), {"width": width, "height": height}


def _written(figure: Figure, kind: str, *, transparent: bool = False) -> bytes:
    import matplotlib as mpl

    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    file = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "tcm_lab", "svg.fonttype": "path"}):
        figure.savefig(file, format=kind, dpi=_DPI, metadata=metadata, transparent=transparent)
    return file.getvalue()

"""Several images or maps side by side in one figure, without axes that say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tcm_lab.reporting.plots import COLUMN_INCHES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE_INCHES = 7.16  # as wide as a page of two columns


def panels(
    count: int, *, columns: int, height: float, width: float | None = None, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``count`` equal axes; call it inside `style`.

    Args:
        count: how many axes.
        columns: at most so many beside each other.
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
    grid = np.asarray(figure.subplots(rows, columns, squeeze=False, **options)).reshape(-1)
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, list(grid[:count])


def show_image(axes: Axes, image: NDArray[np.uint8], title: str = "") -> None:
    """Draw an image (H, W, 3) or (3, H, W) without ticks."""
    pixels = np.asarray(image)
    if pixels.shape[0] == 3:
        pixels = pixels.transpose(1, 2, 0)
    axes.imshow(pixels, interpolation="none")
    bare(axes, title)


def bare(axes: Axes, title: str = "") -> None:
    """Take ticks and grid away, which mean nothing on an image."""
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
    """Write a logarithmic axis' ticks without trailing zeros, at powers of ten alone if asked."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    if decades:
        axis.set_major_locator(LogLocator(subs=(1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))

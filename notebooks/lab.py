"""What the notebooks share: the trained codecs, the photographs, and how findings are shown."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure

import tcm_lab
from tcm_lab.data import ImageSet, open_images
from tcm_lab.reporting import Table, render, save_figure
from tcm_lab.reporting.plots import bare, panels, style
from tcm_lab.stats import Interval

warnings.filterwarnings("ignore", message="IProgress not found")  # progress bars are not shown

ROOT = Path(__file__).resolve().parents[1]
MODELS = Path(tcm_lab.__file__).parent / "weights"
FIGURES = ROOT / "runs" / "notebooks"
NAMES = {
    "convolution": "tcm-nano-conv-only",
    "mixture": "tcm-nano",
    "transformer": "tcm-nano-transformer-only",
    "mixture without SWAtten": "tcm-nano-no-swatten",
}
_WIDTH = 760  # pixels on the page


class Trained(NamedTuple):
    """A trained codec, the rate level at which it is analysed, and the λ of that level."""

    codec: tcm_lab.Codec
    rate: float | None
    weight: float


def family(*labels: str) -> dict[str, Trained]:
    """Return the trained codecs by label; where one was not trained, with random weights."""
    found = {}
    for label in labels or NAMES:
        folder = MODELS / NAMES[label]
        if not (folder / "model.safetensors").exists():
            display(Markdown(f"*{NAMES[label]} is not trained: it has random weights.*"))
            found[label] = Trained(tcm_lab.build(NAMES[label]).eval(), None, 0.013)
            continue
        codec = tcm_lab.load_checkpoint(folder / "model.safetensors")
        lambdas = json.loads((folder / "training.json").read_text())["recipe"]["lambdas"]
        level = len(lambdas) // 2
        rate = float(level) if codec.config.rate_levels else None
        found[label] = Trained(codec, rate, lambdas[level])
    return found


def photographs(count: int) -> ImageSet:
    """Return up to ``count`` photographs: of the folder TCM_LAB_IMAGES, or the embedded ones."""
    folder = os.environ.get("TCM_LAB_IMAGES")
    images = open_images(Path(folder) if folder else None, "eval")[:count]
    display(Markdown(f"{len(images)} photographs: {', '.join(images.names)}"))
    return images


def shown() -> ImageSet:
    """Return the embedded photographs, which are free to show whatever was measured."""
    return open_images(None, "eval")


def scale(trained: Trained) -> str:
    """Return how a codec was trained, for the end of a finding."""
    # The name is followed by what was overridden, the rate levels.
    file = MODELS / trained.codec.config.name.split()[0] / "training.json"
    if not file.exists():
        return "**With random weights: none of these numbers is a finding.**"
    record = json.loads(file.read_text())
    recipe = record["recipe"]
    return (
        f"Scale: {trained.codec.config.name}, {record['steps']} steps of {recipe['batch']} crops "
        f"of {recipe['crop']}x{recipe['crop']} px, one training (seed {recipe['seed']}), "
        f"analysed at λ = {trained.weight:g}. The authors' codecs have 35 to 60 times its "
        "parameters and were trained for 1.9 million steps; what holds here may not hold there."
    )


def say(*sentences: str) -> None:
    """Show a finding."""
    display(Markdown("**Finding.** " + " ".join(sentences)))


def interval(found: Interval, form: str = "+.1f", unit: str = " %") -> str:
    """Return an interval as text."""
    return f"{found.value:{form}}{unit} [{found.low:{form}}, {found.high:{form}}]"


def side_by_side(images: dict[str, Any]) -> Figure:
    """Return images (H, W, 3) or (H, W) of bytes beside each other, by title."""
    with style():
        figure, axes = panels(len(images), columns=len(images), height=2.4)
        for each, (title, pixels) in zip(axes, images.items(), strict=True):
            each.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="none")
            bare(each, title)
    return figure


def show(figure: Figure, name: str, width: int = _WIDTH) -> None:
    """Show a figure, and keep it as PNG and SVG under runs/notebooks."""
    png, _ = save_figure(figure, FIGURES / name)
    display(Image(png, width=width))


def tabulate(table: Table) -> None:
    """Show a table."""
    display(Markdown(render(table, "markdown")))

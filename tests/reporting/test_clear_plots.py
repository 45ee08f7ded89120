"""Every plot of the package: no legend over what it explains, no text cut off or over another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from records import complexity, rd
from test_plots import every_plot, points, shown_texts

import tcm_lab
from tcm_lab.analysis import (
    ErfOptions,
    attention_map,
    erf_maps,
    gate_maps,
    knock_out,
    latent_maps,
    measure_attention,
    measure_latents,
)
from tcm_lab.evaluation import published_curve
from tcm_lab.reporting import PlotAxis, RdSeries, plots, series_of_records
from tcm_lab.stats import Interval

LONG = "tcm-nano with the entropy model of another codec"
COST = PlotAxis(name="Lagrangian cost", unit="%")


def interval(value: float) -> Interval:
    return Interval(value=value, low=value - 0.5, high=value + 0.5)


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    """Every plot of the package by its function's name, with names as long as users give them."""
    codec = tcm_lab.build("tcm-nano").eval()
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    photograph = (255 * images[0]).byte().numpy()
    names = ("convolution only", LONG)
    maps = {name: erf_maps(codec, images, ErfOptions(probes=2)) for name in names}
    latents = {name: measure_latents(codec, images) for name in names}
    attention = {name: measure_attention(codec, images) for name in names}
    layer = attention[LONG].layers[0].layer
    one = latent_maps(codec, images[0])
    changes = [
        plots.Change(label=f"{LONG} {i}", quality=0.3 * i, interval=(0.3 * i - 0.5, 0.3 * i + 0.5),
                     cost=i - 2.0)
        for i in range(5)
    ]  # fmt: skip
    lines = {f"value {i}": [(f"{side} px", 0.1 * i * side) for side in (4, 8)] for i in range(5)}
    vtm = published_curve("vtm")
    curves = [
        series_of_records([rd(LONG)], role="baseline"),
        *(series_of_records([rd(f"variant {i}", db=i / 4)]) for i in range(5)),
        RdSeries(label="vtm", bpp=vtm.bpp, quality=vtm.psnr_db, role="published"),
    ]
    known = every_plot()
    return {
        "agreement_plot": plots.agreement_plot(
            [
                plots.AgreementPoint(label=f"{LONG} {i}", predicted=each, trained=each)
                for i, each in enumerate(map(interval, range(4)))
            ],
            PlotAxis(name="predicted", unit="%"),
            PlotAxis(name="trained", unit="%"),
        ),
        "ablation_plot": plots.ablation_plot(changes, COST, PlotAxis(name="MACs", unit="kMAC/px")),
        "attention_map_plot": plots.attention_map_plot(
            {name: attention_map(codec, images[0], layer, (32, 32)) for name in names}, photograph
        ),
        "attention_plot": plots.attention_plot(attention),
        "bits_plot": plots.bits_plot(one, photograph),
        "budget_plot": plots.budget_plot(
            [
                plots.BudgetSeries(
                    label=f"{LONG} {i}",
                    steps=(100, 200, 300),
                    windows=tuple(interval(i + j) for j in range(3)),
                    evaluated={300: interval(i)},
                    predicted={3000: interval(2 * i)},
                )
                for i in range(4)
            ],
            COST,
        ),
        "cost_by_part_plot": plots.cost_by_part_plot([complexity("a"), complexity(LONG, scale=3)]),
        "cost_size_plot": known["size"],
        "deviation_plot": plots.deviation_plot(dict.fromkeys(names, one), photograph),
        "effects_plot": plots.effects_plot(
            {axis: [("4", [0.1, 0.2]), ("a long value", [0.4])] for axis in ("window", LONG)}, COST
        ),
        "energy_plot": plots.energy_plot(latents),
        "erf_plot": plots.erf_plot({name: found[0] for name, found in maps.items()}),
        "erf_profile_plot": plots.erf_profile_plot(maps),
        "gate_plot": plots.gate_plot(gate_maps(codec, images[0]), photograph),
        "history_plot": plots.history_plot([(i, 1 - 1 / (i + 1)) for i in range(20)]),
        "interactions_plot": plots.interactions_plot(
            [("window", LONG, ["4 px", "8 px"], lines)] * 3, COST
        ),
        "macs_parameters_plot": known["parameters"],
        "pareto_plot": plots.pareto_plot(points(), PlotAxis(name="MACs", unit="kMAC/px"), COST),
        "part_loss_plot": plots.part_loss_plot(knock_out(codec, images, 0.01)),
        "prediction_plot": plots.prediction_plot(latents),
        "rd_plot": plots.rd_plot(curves),
        "roofline_plot": known["roofline"],
        "slice_bits_plot": plots.slice_bits_plot(latents),
    }


NAMES = sorted(name for name in plots.__all__ if name.endswith("_plot"))


def test_all_plots_are_here(drawn: dict[str, Figure]) -> None:
    assert sorted(drawn) == NAMES


def drawn_places(axes: Axes) -> NDArray[np.float64]:
    """Where ink lies, in pixels: along every line, at every dot."""
    found = [np.empty((0, 2))]
    for line in axes.lines:
        place = line.get_transform().transform(np.column_stack(line.get_data()))
        if len(place) > 1 and line.get_linestyle() != "None":
            steps = np.linspace(0, 1, 50)[:, None, None]
            place = (place[:-1] + steps * (place[1:] - place[:-1])).reshape(-1, 2)
        found.append(place)
    found += [axes.transData.transform(dots.get_offsets()) for dots in axes.collections]
    found += [patch.get_window_extent().corners() for patch in axes.patches]
    return np.concatenate(found)


@pytest.mark.parametrize("name", NAMES)
def test_no_legend_covers_what_it_explains(drawn: dict[str, Figure], name: str) -> None:
    figure = drawn[name]
    figure.draw_without_rendering()
    legends = [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]
    boxes = [legend.get_window_extent() for legend in legends if legend is not None]
    for box in boxes:
        for axes in figure.axes:
            places = drawn_places(axes)
            inside = (places > box.min).all(1) & (places < box.max).all(1)
            assert not inside.any(), (name, box, places[inside][:3])
        assert figure.bbox.padded(2).containsx(box.x1), name


@pytest.mark.parametrize("name", NAMES)
def test_no_text_is_cut_off_or_written_over_another(drawn: dict[str, Figure], name: str) -> None:
    figure = drawn[name]
    texts = shown_texts(figure)
    assert len(texts) > 3
    paper: Callable[[], Bbox] = figure.bbox.frozen
    for text in texts:
        box = Text.get_window_extent(text)
        for x, y in box.corners():
            assert -2 <= x <= paper().x1 + 2, (name, text)
            assert -2 <= y <= paper().y1 + 2, (name, text)
    boxes = [(text, Text.get_window_extent(text).padded(-1)) for text in texts]
    for i, (text, box) in enumerate(boxes):
        for other, others in boxes[:i]:
            assert not box.overlaps(others), (name, text, other)


def crowded() -> Figure:
    """Points nearer to each other than a name is wide, so that names need lines."""
    places = {
        "hyperprior alone": (31.7, 2.56),
        "no residual prediction": (33.4, 0.07),
        "no SWAtten": (33.5, -0.65),
        "tcm-nano": (34.1, 0.0),
        "uneven slices with a checkerboard": (34.3, -2.73),
        "one branch after the other": (34.1, 0.39),
        "full support in every slice": (33.8, 0.5),
        "no shifted windows": (33.7, -0.4),
        "window 16": (45.5, 0.15),
    }
    dots = [
        plots.ParetoPoint(x=x, y=y, label=label, y_interval=(y - 0.5, y + 0.5), front=x < 34)
        for label, (x, y) in places.items()
    ]
    return plots.pareto_plot(dots, PlotAxis(name="MACs", unit="kMAC/px"), COST)


@pytest.mark.parametrize("name", [*NAMES, "crowded"])
def test_no_line_to_a_name_crosses_another_name(drawn: dict[str, Figure], name: str) -> None:
    figure = crowded() if name == "crowded" else drawn[name]
    texts = shown_texts(figure)
    lines = 0
    for text in texts:
        if not isinstance(text, Annotation) or (arrow := text.arrow_patch) is None:
            continue
        lines += 1
        path = arrow.get_transform().transform_path(arrow.get_path()).interpolated(50).vertices
        for other in texts:
            if other is not text:
                box = Text.get_window_extent(other).padded(-1)
                assert not any(box.contains(x, y) for x, y in path), (text, other)
    assert lines or name != "crowded"


def front() -> Figure:
    """A front among whose points a name finds no place; its end lies at the frame."""
    places = {
        "tcm-nano": (21.26, 0.0, 0.0),
        "hyperprior alone": (18.94, -0.23, 0.7),
        "no SWAtten": (20.68, -0.65, 0.53),
        "convolutional attention": (25.85, -0.5, 0.55),
        "ELIC's uneven slices with a checkerboard": (21.54, -3.27, 0.82),
        "DCAE's dictionary": (22.66, -0.51, 0.55),
        "MLIC++'s contexts": (21.81, -1.97, 0.62),
        "HPCM's schedule": (33.93, -4.71, 3.37),
    }
    dots = [
        plots.ParetoPoint(
            x=x, y=y, label=label, y_interval=(y - e, y + e) if e else None, baseline=not e,
            front=label in ("hyperprior alone", "no SWAtten") or y < -3,
        )
        for label, (x, y, e) in places.items()
    ]  # fmt: skip
    return plots.pareto_plot(dots, PlotAxis(name="decoder MACs", unit="kMAC/px"), COST)


@pytest.mark.parametrize("plot", [crowded, front])
def test_no_line_to_a_name_crosses_another_point(plot: Callable[[], Figure]) -> None:
    figure = plot()
    (axes,) = figure.axes
    points = np.concatenate([dots.get_offsets() for dots in axes.collections])
    clear = 4 * figure.dpi / 72  # of points of 3 at most
    lines = 0
    for text in shown_texts(figure):
        if not isinstance(text, Annotation) or (arrow := text.arrow_patch) is None:
            continue
        lines += 1
        path = arrow.get_transform().transform_path(arrow.get_path()).interpolated(50).vertices
        own = (points == text.xy).all(axis=1)
        others = axes.transData.transform(points[~own])
        nearest = np.hypot(*(path[:, None] - others[None]).transpose(2, 0, 1)).min()
        assert nearest > clear, (text, nearest / clear)
    assert lines

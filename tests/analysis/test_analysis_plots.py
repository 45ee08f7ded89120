import numpy as np
import pytest
import scipy.stats
import torch
from matplotlib.text import Text

import tcm_lab
from tcm_lab.analysis import (
    ErfOptions,
    entropy_model_erf_maps,
    erf_maps,
    gate_maps,
    knock_out,
    latent_maps,
    measure_attention,
    measure_erf,
    measure_latents,
)
from tcm_lab.codec import Codec
from tcm_lab.errors import LabError
from tcm_lab.reporting import attention_table, erf_table, figure_svg, latent_table, render
from tcm_lab.reporting.plots import (
    attention_plot,
    bits_plot,
    deviation_plot,
    energy_plot,
    erf_plot,
    erf_profile_plot,
    gate_plot,
    part_loss_plot,
    prediction_plot,
    slice_bits_plot,
)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return tcm_lab.build("tcm-nano").eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_field_maps_are_drawn_around_their_centre_with_what_is_clipped_stated(
    codec: Codec, images: torch.Tensor
) -> None:
    maps = erf_maps(codec, images, ErfOptions(probes=2))
    measures = measure_erf(maps)
    figure = erf_plot({"TCM": maps[0]}, squares={"TCM": measures})
    axes, bar = figure.axes
    left, right, bottom, top = axes.images[0].get_extent()
    row, column = maps[0].centre
    assert (left, right) == (-column - 0.5, 63.5 - column)
    assert (top, bottom) == (-row - 0.5, 63.5 - row)
    shown = np.asarray(axes.images[0].get_array())
    assert shown.max() == 1
    assert shown.min() == pytest.approx(1e-5)
    assert "clipped below 1e-5" in bar.get_ylabel()
    sides = [patch.get_width() for patch in axes.patches]
    assert sides == [measures.side_px[0.5].value, measures.side_px[0.95].value]
    others = measure_erf(maps, shares=(0.5, 0.994, 0.995))
    assert len(erf_plot({"TCM": maps[0]}, squares={"TCM": others}).axes[0].patches) == 1
    assert erf_table({"TCM": others}).columns[3].key == "side_99.5_px"
    both = erf_table({"others": others, "TCM": measures})
    sides = [column.key for column in both.columns if column.key.startswith("side_")]
    assert sides == [f"side_{p}_px" for p in ("20", "30", "50", "95", "99", "99.4", "99.5")]
    two = erf_plot({"a": maps[0], "b": maps[1]}, squares={"a": measures})
    assert [len(axes.patches) for axes in two.axes[:2]] == [2, 0]
    two.draw_without_rendering()
    left_label, right_label = (each.xaxis.label.get_window_extent() for each in two.axes[:2])
    assert left_label.x1 < right_label.x0
    with pytest.raises(LabError, match="no maps given"):
        erf_plot({})


@pytest.mark.parametrize("count", [1, 3, 4])
def test_fields_are_drawn_as_far_as_they_reach_and_no_label_is_clipped(
    codec: Codec, images: torch.Tensor, count: int
) -> None:
    (field,) = erf_maps(codec, images[:1], ErfOptions(probes=2))
    scores = np.zeros_like(field.scores)
    scores[28:37, 28:37] = 1 / 81  # nine positions across
    narrow = field.model_copy(update={"scores": scores, "centre": (32, 32)})
    figure = erf_plot({f"mixture of convolution {i}": narrow for i in range(count)})
    figure.draw_without_rendering()
    for axes in figure.axes[:count]:
        assert axes.get_xlim() == (-5.5, 5.5)
        assert axes.get_ylim() == (5.5, -5.5)
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert 0 <= drawn.x0 <= drawn.x1 <= width
    assert 0 <= drawn.y0 <= drawn.y1 <= height
    titles = [axes.title.get_window_extent() for axes in figure.axes[:count]]
    assert not any(a.overlaps(b) for i, a in enumerate(titles) for b in titles[:i])


def test_a_profile_falls_to_what_lies_outside_of_each_square(
    codec: Codec, images: torch.Tensor
) -> None:
    (field,) = erf_maps(codec, images[:1], ErfOptions(probes=2))
    maps = [field.model_copy(update={"centre": (32, 32)})]
    curve = erf_profile_plot({"TCM": maps}).axes[0].lines[0]
    outside = dict(zip(*map(np.asarray, curve.get_data()), strict=True))
    y, x = np.mgrid[:64, :64] - 32
    for side in (9, 21):
        far = np.maximum(abs(y), abs(x)) > side // 2
        assert outside[side] == pytest.approx(maps[0].scores[far].sum(), abs=1e-5)


def test_the_field_table_shows_what_was_measured(codec: Codec, images: torch.Tensor) -> None:
    measures = measure_erf(erf_maps(codec, images, ErfOptions(probes=2)))
    table = erf_table({"TCM": measures})
    values = table.rows[0].values
    radius = values["radius_px"]
    assert getattr(radius, "value", None) == measures.radius_px.value
    assert "95 % bootstrap" in render(table, "markdown")
    slices = {
        f"slice {i}": measure_erf(entropy_model_erf_maps(codec, images, i, ErfOptions(probes=2)))
        for i in (0, 2)
    }
    table = erf_table(slices)
    assert len(table.rows) == 2
    assert table.title == "Effective receptive field of mean of slice 0 and mean of slice 2"


def test_attention_is_drawn_head_by_head(codec: Codec, images: torch.Tensor) -> None:
    record = measure_attention(codec, images)
    figure = attention_plot({"TCM": record})
    labels = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert labels == ["0 W", "0 SW", "1 W", "1 SW", "2 W", "2 SW"]
    heads = figure.axes[0].collections[0].get_offsets()[:, 1]
    expected = [
        np.mean(layer.learned.distance_px, axis=0)
        for layer in record.layers
        if "g_a" in layer.layer
    ]
    np.testing.assert_allclose(heads, np.concatenate(expected))
    for transform, rows in {"slices": 16, "h_s": 4}.items():
        assert len(attention_table({"TCM": record}, transform=transform).rows) == rows
    with pytest.raises(LabError, match="no layer of h_x"):
        attention_plot({"TCM": record}, transform="h_x")
    with pytest.raises(LabError, match="Did you mean distance_px"):
        attention_plot({"TCM": record}, metric="distance")


def test_equal_weights_are_drawn_for_the_windows_of_each_model(
    codec: Codec, images: torch.Tensor
) -> None:
    narrow = tcm_lab.build("tcm-nano", {"g_a.window_size": 2})
    records = {"a": measure_attention(codec, images[:1]), "b": measure_attention(narrow, images)}
    collections = attention_plot(records).axes[0].collections
    for record, lines in zip(records.values(), collections[-2:], strict=True):
        drawn = [segment[0, 1] for segment in lines.get_segments()]
        expected = [layer.uniform.distance_px[0][0] for layer in record.layers_of("g_a")]
        np.testing.assert_allclose(drawn, expected)
    # Of two by two tokens: itself, two neighbours, and one over the corner.
    pitch = records["b"].layers[0].pitch_px
    assert drawn[0] == pytest.approx(pitch * (2 + 2**0.5) / 4)


def test_every_layer_has_a_place_of_its_own(images: torch.Tensor) -> None:
    codec = tcm_lab.build("tcm-nano", {"g_a.depth": 4})
    record = measure_attention(codec, images[:1])
    for transform, count in {"g_a": 3 * 4, "h_s": 2 * 2}.items():
        (axes,) = attention_plot({"TCM": record}, transform=transform).axes
        labels = [tick.get_text() for tick in axes.get_xticklabels()]
        assert len(labels) == len(set(labels)) == count
        rows = attention_table({"TCM": record}, transform=transform).rows
        assert [row.values["layer"] for row in rows] == labels


def test_latents_are_drawn_on_one_scale(codec: Codec, images: torch.Tensor) -> None:
    image = (255 * images[0]).byte().numpy()
    records = {"a": measure_latents(codec, images), "b": measure_latents(codec, images[:1])}
    maps = {name: latent_maps(codec, images[i]) for i, name in enumerate("ab")}
    first, second = (axes.images[0].get_clim() for axes in deviation_plot(maps, image).axes[1:3])
    assert first == second
    bars = slice_bits_plot(records).axes[0].patches
    totals = sum(bar.get_width() for bar in bars[::2]), sum(bar.get_width() for bar in bars[1::2])
    assert totals == pytest.approx([records[name].interval("bpp").value for name in "ab"])
    for figure in (
        bits_plot(maps["a"], image),
        prediction_plot(records),
        energy_plot(records),
        gate_plot(gate_maps(codec, images[0]), image),
    ):
        assert figure_svg(figure).startswith("<?xml")
    table = latent_table(records)
    assert len(table.rows) == 2
    assert table.footer[0].startswith("Means over 1 or 2 images;")


def test_curves_of_energy_and_of_errors_are_those_of_numpy(
    codec: Codec, images: torch.Tensor
) -> None:
    record = measure_latents(codec, images)
    (held,) = energy_plot({"a": record}).axes[0].lines
    energy = np.sort(record.channel_energy.astype(float))[::-1]
    np.testing.assert_allclose(held.get_ydata(), np.cumsum(energy) / energy.sum(), rtol=1e-5)
    assert held.get_xdata().tolist() == [*range(1, 65)]
    normal, errors = prediction_plot({"a": record}).axes[0].lines
    density = scipy.stats.norm.pdf(normal.get_xdata())
    np.testing.assert_allclose(normal.get_ydata(), density, rtol=1e-6)
    width = np.diff(errors.get_xdata())[0]
    inside = sum(record.errors.histogram[1:-1]) / record.errors.count
    assert np.sum(errors.get_ydata()) * width == pytest.approx(inside)


def test_titles_of_neighbouring_panels_do_not_touch(codec: Codec, images: torch.Tensor) -> None:
    record = measure_latents(codec, images[:1])
    figure = prediction_plot({"mixture": record, "convolution": record, "transformer": record})
    figure.draw_without_rendering()
    titles = [t for t in figure.findobj(Text) if "nearest" in t.get_text()]  # type: ignore[attr-defined]  # findobj's stub says Artist
    boxes = [Text.get_window_extent(title) for title in titles]
    bar = figure.axes[-1].get_window_extent()
    assert len(boxes) == 3
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in (*boxes[:i], bar))


def test_panels_of_many_codecs_or_slices_are_wide_enough_for_their_titles(
    codec: Codec, images: torch.Tensor
) -> None:
    record, maps = measure_latents(codec, images[:1]), latent_maps(codec, images[0])
    twelve = maps.model_copy(update={"bits": np.tile(maps.bits, (3, 1, 1))})
    image = (255 * images[0]).byte().numpy()
    for figure, word, count in (
        (prediction_plot({f"mixture {i}": record for i in range(6)}), "nearest", 6),
        (bits_plot(twelve, image), "slice", 12),
    ):
        figure.draw_without_rendering()
        titles = [t for t in figure.findobj(Text) if word in t.get_text()]  # type: ignore[attr-defined]  # as above
        boxes = [Text.get_window_extent(title) for title in titles]
        assert len(boxes) == count
        assert not any(box.overlaps(other) for i, box in enumerate(boxes) for other in boxes[:i])
        assert max(title.get_text().count("\n") for title in titles) < 2


def test_names_of_many_attention_layers_are_turned(codec: Codec, images: torch.Tensor) -> None:
    record = measure_attention(codec, images[:1])
    for transform, turned in {"g_a": 0, "slices": 40}.items():
        figure = attention_plot({"TCM": record}, metric="near_share", transform=transform)
        (axes,) = figure.axes
        assert {label.get_rotation() for label in axes.get_xticklabels()} == {turned}
        figure.draw_without_rendering()
        assert axes.yaxis.label.get_window_extent().y1 <= figure.bbox.y1


def test_parts_are_drawn_at_what_they_cost(codec: Codec, images: torch.Tensor) -> None:
    parts = {"a": ["g_a.stages.0.blocks.0.conv"], "b": ["g_s.stages.2.blocks.0.swin"]}
    record = knock_out(codec, images[:1], 0.01, parts=parts)
    drawn = part_loss_plot(record).axes[0].collections
    assert [c.get_label() for c in drawn] == ["convolution branch", "transformer branch"]
    assert drawn[1].get_offsets()[0][0] == pytest.approx(record.parts[1].kmacs_per_px)

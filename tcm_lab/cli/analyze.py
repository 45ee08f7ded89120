"""Commands that inspect trained codecs: receptive fields, attention, latents."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import tcm_lab
from tcm_lab._utils.files import write_atomically
from tcm_lab._utils.progress import progress
from tcm_lab.cli import options
from tcm_lab.cli.options import Models

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def erf(
    models: Models,
    /,
    *,
    data: Path | None = None,
    layer: str | None = None,
    method: str = "frobenius",
    probes: int = 16,
    side: int = 256,
    max_images: int = 8,
    rate: float | None = None,
    seed: int = 0,
    device: str = "cpu",
    format: str = "markdown",
    out: Path = Path("runs/erf"),
) -> int:
    """Draw and measure effective receptive fields of the latent or of any layer.

    Args:
        models: Checkpoints; or presets and compressai/NAME, which have random weights.
        data: Folder of images; by default the embedded photographs.
        layer: Dotted name of the layer; by default the latent, y.
        method: How channels are combined: frobenius, sum or single-channel.
        probes: Random sign vectors per image.
        side: Side of the central crop of each image, in pixels.
        max_images: Maximum number of images.
        rate: Level of rate-conditioned models.
        seed: Seed of the probes.
        device: cpu or cuda.
        format: Format of the printed table: markdown, latex, csv, json or html.
        out: Folder for the records and figures.
    """
    lab, plots = tcm_lab.analysis, tcm_lab.reporting.plots
    form = options.table_form(format)
    options.need_some(models, "MODEL")
    images = _images(data, max_images)
    combined = options.choice("--method", method, get_args(lab.ErfMethod))
    how = lab.erf_options(
        layer=layer, method=combined, probes=probes, side=side, rate=rate, seed=seed
    )
    fields = {}
    for name, codec in _codecs(models, device):
        with progress(f"{name}, image") as on_image:
            fields[name] = lab.erf_maps(codec, images, how, on_image=on_image)
    measures = {name: lab.measure_erf(maps) for name, maps in fields.items()}
    means = {name: lab.mean_erf(maps) for name, maps in fields.items()}
    _keep(out, {name: [means[name], measures[name]] for name in fields})
    _draw(
        out,
        {"erf": plots.erf_plot(means, squares=measures), "profile": plots.erf_profile_plot(fields)},
    )
    options.show([tcm_lab.reporting.erf_table(measures)], form, None)
    return 0


def attention(
    models: Models,
    /,
    *,
    data: Path | None = None,
    transform: str = "g_a",
    max_images: int = 8,
    query: tuple[int, int] | None = None,
    rate: float | None = None,
    device: str = "cpu",
    format: str = "markdown",
    out: Path = Path("runs/attention"),
) -> int:
    """Measure window attention: distance, entropy, weight on near neighbours.

    Args:
        models: Checkpoints or presets with window attention.
        data: Folder of images; by default the embedded photographs.
        transform: Part whose layers are shown: g_a, g_s, h_a, h_s or slices; the records hold all.
        max_images: Maximum number of images.
        query: Row and column of the pixel of the first image whose attention is drawn; by default
            its centre.
        rate: Level of rate-conditioned models.
        device: cpu or cuda.
        format: Format of the printed table: markdown, latex, csv, json or html.
        out: Folder for the records and figures.
    """
    lab, plots = tcm_lab.analysis, tcm_lab.reporting.plots
    form = options.table_form(format)
    part = options.choice("--transform", transform, ("g_a", "g_s", "h_a", "h_s", "slices"))
    options.need_some(models, "MODEL")
    images = _images(data, max_images)
    height, width = images.sizes[0]
    pixel = (height // 2, width // 2) if query is None else query
    records, figures = {}, {}
    for name, codec in _codecs(models, device):
        with progress(f"{name}, image") as on_image:
            records[name] = lab.measure_attention(codec, images, rate=rate, on_image=on_image)
        layers = [x for x in records[name].layers if x.layer.startswith(f"{part}.")]
        maps = {
            f"{layer.stage}, {'SW' if layer.shifted else 'W'}": lab.attention_map(
                codec, images[0], layer.layer, pixel, name=images.names[0], rate=rate
            )
            for layer in layers
        }
        if maps:
            figures[f"map-{name}"] = plots.attention_map_plot(maps, images.decode(0))
    table = tcm_lab.reporting.attention_table(records, transform=part)
    _keep(out, {name: [record] for name, record in records.items()})
    _draw(out, {"distance": plots.attention_plot(records, transform=part), **figures})
    options.show([table], form, None)
    return 0


def latents(
    models: Models,
    /,
    *,
    data: Path | None = None,
    max_images: int = 8,
    rate: float | None = None,
    device: str = "cpu",
    format: str = "markdown",
    out: Path = Path("runs/latents"),
) -> int:
    """Measure latents: deviation, bits per slice, prediction error, energy compaction.

    Args:
        models: Checkpoints or presets.
        data: Folder of images; by default the embedded photographs.
        max_images: Maximum number of images.
        rate: Level of rate-conditioned models.
        device: cpu or cuda.
        format: Format of the printed table: markdown, latex, csv, json or html.
        out: Folder for the records and figures.
    """
    lab, plots = tcm_lab.analysis, tcm_lab.reporting.plots
    form = options.table_form(format)
    options.need_some(models, "MODEL")
    images = _images(data, max_images)
    records, maps = {}, {}
    for name, codec in _codecs(models, device):
        with progress(f"{name}, image") as on_image:
            records[name] = lab.measure_latents(codec, images, rate=rate, on_image=on_image)
        maps[name] = lab.latent_maps(codec, images[0], name=images.names[0], rate=rate)
    _keep(out, {name: [record] for name, record in records.items()})
    image = images.decode(0)
    _draw(
        out,
        {
            "deviation": plots.deviation_plot(maps, image),
            "slices": plots.slice_bits_plot(records),
            "prediction": plots.prediction_plot(records),
            "energy": plots.energy_plot(records),
            **{f"bits-{name}": plots.bits_plot(found, image) for name, found in maps.items()},
        },
    )
    options.show([tcm_lab.reporting.latent_table(records)], form, None)
    return 0


def _images(data: Path | None, count: int) -> Any:
    return tcm_lab.data.open_images(data, "eval")[:count]


def _codecs(models: Sequence[str], device: str) -> list[tuple[str, Any]]:
    """Return each model by name, loaded or built; ``#2`` marks a second one of the same name."""
    known = tcm_lab.list_models()
    found: dict[str, Any] = {}
    for model in models:
        from_file = model not in known and Path(model).suffix not in (".yaml", ".yml")
        codec = tcm_lab.load_checkpoint(model) if from_file else tcm_lab.build(model)
        config = getattr(codec, "config", None)
        name = model.replace("/", "-") if config is None else config.name.replace("/", "-")
        same = sum(other.split("#")[0] == name for other in found)
        if same:  # another checkpoint of the same design
            name = f"{name}#{same + 1}"
        found[name] = codec.eval().to(device)
    return list(found.items())


def _keep(out: Path, records: dict[str, list[Any]]) -> None:
    """Write each model's records as JSON."""
    for name, found in records.items():
        text = ",\n".join(record.model_dump_json() for record in found)
        write_atomically(out / f"{name}.json", f"[{text}]\n")


def _draw(out: Path, figures: dict[str, Figure]) -> None:
    for name, figure in figures.items():
        tcm_lab.reporting.save_figure(figure, out / name)
    print(f"{out}: {len(figures)} figures as PNG and SVG, records as JSON", file=sys.stderr)

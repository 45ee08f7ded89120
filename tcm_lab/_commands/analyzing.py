"""Commands that look inside trained codecs: receptive fields, attention, latents."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tcm_lab._commands import options
from tcm_lab._commands.options import Form, Models
from tcm_lab._utils.files import write_atomically
from tcm_lab._utils.progress import progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tcm_lab.reporting import Table

Method = Literal["frobenius", "sum", "single-channel"]


def erf(
    models: Models,
    /,
    *,
    data: Path | None = None,
    layer: str | None = None,
    method: Method = "frobenius",
    probes: int = 16,
    side: int = 256,
    max_images: int = 8,
    rate: float | None = None,
    seed: int = 0,
    device: str = "cpu",
    format: Form = "markdown",
    out: Path = Path("runs/erf"),
) -> int:
    """Draw and measure effective receptive fields of the latent or of any layer.

    Args:
        models: checkpoints; or presets and compressai/NAME, which have random weights.
        data: folder of images; by default the embedded photographs.
        layer: dotted name of the layer; by default the latent, y.
        method: how channels are brought together.
        probes: random sign vectors per image.
        side: side of the crop from the middle of each image, in pixels.
        max_images: maximum number of images.
        rate: level of rate-conditioned models.
        seed: of the probes.
        device: cpu or cuda.
        format: of the printed table.
        out: folder for the records and figures.
    """
    from tcm_lab.analysis import erf_maps, erf_options, mean_erf, measure_erf
    from tcm_lab.reporting import erf_table
    from tcm_lab.reporting.plots import erf_plot, erf_profile_plot

    options.need_some(models, "MODEL")
    images = _images(data, max_images)
    how = erf_options(layer=layer, method=method, probes=probes, side=side, rate=rate, seed=seed)
    fields = {}
    for name, codec in _codecs(models, device):
        with progress(f"{name}, image") as on_image:
            fields[name] = erf_maps(codec, images, how, on_image=on_image)
    measures = {name: measure_erf(maps) for name, maps in fields.items()}
    means = {name: mean_erf(maps) for name, maps in fields.items()}
    _keep(out, {name: [means[name], measures[name]] for name in fields})
    _draw(out, {"erf": erf_plot(means, squares=measures), "profile": erf_profile_plot(fields)})
    _show(erf_table(measures), format)
    return 0


def attention(
    models: Models,
    /,
    *,
    data: Path | None = None,
    transform: Literal["g_a", "g_s", "h_a", "h_s", "slices"] = "g_a",
    max_images: int = 8,
    query: tuple[int, int] | None = None,
    rate: float | None = None,
    device: str = "cpu",
    format: Form = "markdown",
    out: Path = Path("runs/attention"),
) -> int:
    """Measure where window attention looks: distance, entropy, weight on near neighbours.

    Args:
        models: checkpoints or presets with window attention.
        data: folder of images; by default the embedded photographs.
        transform: whose layers to show; the records hold all.
        max_images: maximum number of images.
        query: row and column of the pixel of the first image whose maps are drawn; by default
            its middle.
        rate: level of rate-conditioned models.
        device: cpu or cuda.
        format: of the printed table.
        out: folder for the records and figures.
    """
    from tcm_lab.analysis import attention_map, measure_attention
    from tcm_lab.reporting import attention_table
    from tcm_lab.reporting.plots import attention_map_plot, attention_plot

    options.need_some(models, "MODEL")
    images = _images(data, max_images)
    height, width = images.sizes[0]
    pixel = (height // 2, width // 2) if query is None else query
    records, figures = {}, {}
    for name, codec in _codecs(models, device):
        with progress(f"{name}, image") as on_image:
            records[name] = measure_attention(codec, images, rate=rate, on_image=on_image)
        layers = [x for x in records[name].layers if x.layer.startswith(f"{transform}.")]
        maps = {
            f"{layer.stage}, {'SW' if layer.shifted else 'W'}": attention_map(
                codec, images[0], layer.layer, pixel, name=images.names[0], rate=rate
            )
            for layer in layers
        }
        if maps:
            figures[f"map-{name}"] = attention_map_plot(maps, images.decode(0))
    table = attention_table(records, transform=transform)
    _keep(out, {name: [record] for name, record in records.items()})
    _draw(out, {"distance": attention_plot(records, transform=transform), **figures})
    _show(table, format)
    return 0


def latents(
    models: Models,
    /,
    *,
    data: Path | None = None,
    max_images: int = 8,
    rate: float | None = None,
    device: str = "cpu",
    format: Form = "markdown",
    out: Path = Path("runs/latents"),
) -> int:
    """Measure latents: deviation, bits per slice, how well they are predicted, compaction.

    Args:
        models: checkpoints or presets.
        data: folder of images; by default the embedded photographs.
        max_images: maximum number of images.
        rate: level of rate-conditioned models.
        device: cpu or cuda.
        format: of the printed table.
        out: folder for the records and figures.
    """
    from tcm_lab import reporting
    from tcm_lab.analysis import latent_maps, measure_latents
    from tcm_lab.reporting import plots

    options.need_some(models, "MODEL")
    images = _images(data, max_images)
    records, maps = {}, {}
    for name, codec in _codecs(models, device):
        with progress(f"{name}, image") as on_image:
            records[name] = measure_latents(codec, images, rate=rate, on_image=on_image)
        maps[name] = latent_maps(codec, images[0], name=images.names[0], rate=rate)
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
    _show(reporting.latent_table(records), format)
    return 0


def _images(data: Path | None, count: int) -> Any:
    from tcm_lab.data import open_images

    return open_images(data, "eval")[:count]


def _codecs(models: Sequence[str], device: str) -> list[tuple[str, Any]]:
    """Return each model by name, checkpoints loaded and the others built; ``#2`` is a second."""
    from tcm_lab.codec import build, list_models, load_checkpoint

    known = list_models()
    found: dict[str, Any] = {}
    for model in models:
        path = Path(model)
        from_file = model not in known and path.suffix not in (".yaml", ".yml")
        codec = load_checkpoint(path) if from_file else build(model)
        config = getattr(codec, "config", None)
        name = model.replace("/", "-") if config is None else config.name.replace("/", "-")
        same = sum(other.split("#")[0] == name for other in found)
        if same:  # another checkpoint of one design, in the order that they are named in
            name = f"{name}#{same + 1}"
        found[name] = codec.eval().to(device)
    return list(found.items())


def _keep(out: Path, records: dict[str, list[Any]]) -> None:
    """Write each model's records as JSON."""
    for name, found in records.items():
        text = ",\n".join(record.model_dump_json() for record in found)
        write_atomically(out / f"{name}.json", f"[{text}]\n")


def _draw(out: Path, figures: dict[str, Figure]) -> None:
    from tcm_lab.reporting import save_figure

    for name, figure in figures.items():
        save_figure(figure, out / name)
    print(f"{out}: {len(figures)} figures as PNG and SVG, records as JSON", file=sys.stderr)


def _show(table: Table, format: Form) -> None:
    options.show([table], format, None)

"""Commands that inspect trained codecs: receptive fields, attention, latents."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import tcm_lab
from tcm_lab._utils.devices import arithmetic, checked_device
from tcm_lab._utils.files import write_atomically
from tcm_lab._utils.numbered import numbered
from tcm_lab._utils.progress import progress
from tcm_lab.cli import options
from tcm_lab.cli.models import Arguments, Models, Weights, entries, loaded
from tcm_lab.cli.options import Output
from tcm_lab.errors import LabError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@options.flowing
@dataclass(frozen=True)
class Analysis:
    """Options of every analysis.

    Attributes:
        data: Folder of images; by default the embedded photographs.
        max_images: Maximum number of images.
        rate: Level of rate-conditioned models; by default 0, the lowest rate.
        device: cpu or cuda.
        arguments: Arguments of your own codec's factory, such as width=24.
        checkpoints: Weights of compressai/NAME or of your own codec.
        format: Format of the printed table: markdown, latex, csv, json or html.
        out: Folder for the records and figures; by default runs/ANALYSIS.
    """

    data: Annotated[Path | None, options.UNSET] = None
    max_images: int = 8
    rate: Annotated[float | None, options.UNSET] = None
    device: str = "cpu"
    arguments: Arguments = ()
    checkpoints: Weights = ()
    format: str = "markdown"
    out: Annotated[Path | None, options.UNSET] = None

    def images(self) -> Any:
        """Open the images.

        Raises:
            LabError: --max-images is below 1, or there are no images.
        """
        if self.max_images < 1:
            raise LabError(f"--max-images {self.max_images}: must be at least 1.")
        return tcm_lab.data.open_images(self.data, "eval")[: self.max_images]

    def codecs(self, models: Models) -> Iterator[tuple[str, Any, Any]]:
        """Yield each model's name, its codec, and a callback to call after each image.

        ``#2`` marks a second model of the same name. The caller's work on a codec is done in
        float32, also on a GPU.
        """
        Output(self.format).check()
        options.check_place(self.out or Path("runs"), folder=True)
        device = checked_device(self.device, "--device")
        given = entries(models, self.checkpoints, self.arguments)
        names = numbered(entry.name for entry in given)
        for name, (_, codec) in zip(names, loaded(given, [self.rate]), strict=True):
            with progress(f"{name}, image") as on_image, arithmetic("float32", device):
                yield name, codec.eval().to(device), on_image

    def write(
        self,
        kind: str,
        table: tcm_lab.reporting.Table,
        figures: Mapping[str, Figure],
        *records: Mapping[str, Any],
    ) -> None:
        """Print the table, and write the figures and each model's records, as JSON."""
        out = Path("runs") / kind if self.out is None else self.out
        for name in records[0]:
            text = ",\n".join(each[name].model_dump_json() for each in records)
            write_atomically(out / f"{name}.json", f"[{text}]\n")
        for name, figure in figures.items():
            tcm_lab.reporting.save_figure(figure, out / name)
        drawn = f"{len(figures)} figures as PNG and SVG, " if figures else ""
        print(f"{out}: {drawn}records as JSON", file=sys.stderr)
        Output(self.format).show(table)


def erf(
    models: Models,
    /,
    *,
    common: Analysis,
    layer: str | None = None,
    method: str = "frobenius",
    probes: int = 16,
    side: int = 256,
    seed: int = 0,
) -> None:
    """Draw and measure effective receptive fields of the latent or of any layer.

    Args:
        models: Checkpoints and trained codecs by name (tcm-nano); or presets, compressai/NAME and
            your own codecs (FILE.py:FACTORY), with random weights unless given by --checkpoint.
        common: Options of every analysis.
        layer: Dotted name of the layer, such as g_a.stages.3, before a linear shortcut is added; by
            default the latent, y.
        method: How channels are combined: frobenius, sum or single-channel.
        probes: Number of random sign vectors per image.
        side: Side of the central crop of each image, in pixels.
        seed: Seed of the probes.
    """
    lab, plots = tcm_lab.analysis, tcm_lab.reporting.plots
    combined = options.choice("--method", method, get_args(lab.ErfMethod))
    settings = lab.erf_options(
        layer=layer, method=combined, probes=probes, side=side, rate=common.rate, seed=seed
    )
    images = common.images()
    fields = {
        name: lab.erf_maps(codec, images, settings, on_image=on_image)
        for name, codec, on_image in common.codecs(models)
    }
    measures = {name: lab.measure_erf(maps) for name, maps in fields.items()}
    means = {name: lab.mean_erf(maps) for name, maps in fields.items()}
    figures = {
        "erf": plots.erf_plot(means, squares=measures),
        "profile": plots.erf_profile_plot(fields),
    }
    common.write("erf", tcm_lab.reporting.erf_table(measures), figures, means, measures)


def attention(
    models: Models,
    /,
    *,
    common: Analysis,
    transform: str = "g_a",
    query: tuple[int, int] | None = None,
) -> None:
    """Measure window attention: distance, entropy, weight on near neighbours.

    Args:
        models: Checkpoints, trained codecs or presets with window attention.
        common: Options of every analysis.
        transform: Part whose layers are shown: g_a, g_s, h_a, h_s or slices; the records hold all
            parts.
        query: Row and column of the pixel in the first image whose attention is drawn; by default
            the centre.
    """
    from tcm_lab.analysis.attention import check_query

    lab, plots = tcm_lab.analysis, tcm_lab.reporting.plots
    part = options.choice("--transform", transform, ("g_a", "g_s", "h_a", "h_s", "slices"))
    images, rate = common.images(), common.rate
    height, width = images.sizes[0]
    pixel = (height // 2, width // 2) if query is None else query
    check_query(pixel, (height, width))
    records, figures = {}, {}
    for model, codec, on_image in common.codecs(models):
        record = lab.measure_attention(codec, images, rate=rate, on_image=on_image)
        records[model] = record
        layers = record.layers_of(part)
        titles = numbered((f"{x.stage}, {'SW' if x.shifted else 'W'}" for x in layers), " #")
        maps = {
            title: lab.attention_map(
                codec, images[0], layer.layer, pixel, name=images.names[0], rate=rate
            )
            for title, layer in zip(titles, layers, strict=True)
        }
        if maps:
            figures[f"map-{model}"] = plots.attention_map_plot(maps, images.decode(0))
    table = tcm_lab.reporting.attention_table(records, transform=part)
    figures["distance"] = plots.attention_plot(records, transform=part)
    common.write("attention", table, figures, records)


def latents(models: Models, /, *, common: Analysis) -> None:
    """Measure latents: deviation, bits per slice, prediction error, energy compaction.

    Args:
        models: Checkpoints, trained codecs or presets.
        common: Options of every analysis.
    """
    lab, plots = tcm_lab.analysis, tcm_lab.reporting.plots
    images, rate = common.images(), common.rate
    image = images.decode(0)
    records, maps = {}, {}
    for name, codec, on_image in common.codecs(models):
        records[name] = lab.measure_latents(codec, images, rate=rate, on_image=on_image)
        maps[name] = lab.latent_maps(codec, images[0], name=images.names[0], rate=rate)
    figures = {
        "deviation": plots.deviation_plot(maps, image),
        "slices": plots.slice_bits_plot(records),
        "prediction": plots.prediction_plot(records),
        "energy": plots.energy_plot(records),
        **{f"bits-{name}": plots.bits_plot(drawn, image) for name, drawn in maps.items()},
    }
    table = tcm_lab.reporting.latent_table(records)
    common.write("latents", table, figures, records)


def shortcut(models: Models, /, *, common: Analysis) -> None:
    """Measure how much of the latent and of the image comes through the linear shortcut.

    Args:
        models: Checkpoints, trained codecs or presets with a shortcut.
        common: Options of every analysis.
    """
    images = common.images()
    records = {
        name: tcm_lab.analysis.measure_shortcut(codec, images, rate=common.rate, on_image=on_image)
        for name, codec, on_image in common.codecs(models)
    }
    table = tcm_lab.reporting.shortcut_table(records)
    common.write("shortcut", table, {}, records)

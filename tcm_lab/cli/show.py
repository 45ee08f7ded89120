"""Commands that show records and names: tables, plots and lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import tyro

import tcm_lab
from tcm_lab._utils.files import as_text, check_suffix, keep_inputs
from tcm_lab.cli import options
from tcm_lab.cli.options import Files, Flag, Output
from tcm_lab.codec.names import matching
from tcm_lab.errors import LabError, near, one_of


def table(
    records: Files,
    /,
    *,
    convention: str = "all",
    detail: str = "totals",
    published: Flag = False,
    output: Output,
) -> None:
    """Make tables from records written with --format json.

    Args:
        records: JSON files.
        convention: Which operators count: all, no-attention-products or conv-linear-only.
        detail: Columns of costs: totals, parts or kinds of operators.
        published: Add published figures of these models, in separate rows.
        output: How the result is shown.
    """
    reporting = tcm_lab.reporting
    output.check()
    if output.out is not None:
        keep_inputs(output.out, *records)
    found = _read(records)
    if not any(isinstance(record, tcm_lab.complexity.ComplexityRecord) for record in found):
        idle = {"--convention": convention != "all", "--detail": detail != "totals"}
        options.refuse_idle("records without costs", {**idle, "--published": published})
    tables = reporting.tables_of(
        found,
        convention=options.choice("--convention", convention, tcm_lab.complexity.CONVENTIONS),
        detail=options.choice("--detail", detail, get_args(reporting.Detail)),
        published=published,
    )
    output.show(*tables)


def plot(
    kind: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="KIND")],
    records: Files,
    /,
    *,
    out: Path,
    title: str = "",
    metric: str = "psnr_db",
    anchors: tuple[str, ...] = (),
) -> None:
    """Draw a plot, as PNG and SVG, of records written with --format json.

    Args:
        kind: parts (cost by part), parameters (cost over parameters), size (cost over image size),
            roofline (each part against the device's peaks) or rd (rate and distortion).
        records: JSON files.
        out: Path of the plot, without a suffix.
        title: Title of the plot.
        metric: Quality shown by rd: psnr_db, psnr_yuv_db, ssim, ms_ssim_db, lpips or dists.
        anchors: Published curves to add to rd, such as vtm, bpg or dcae; for Kodak images only.
    """
    reporting = tcm_lab.reporting
    chosen = options.choice("KIND", kind, get_args(reporting.PlotKind))
    check_suffix(out, [".png", ".svg"], "a PNG and an SVG file")
    stem = out.with_suffix("") if out.suffix.lower() in (".png", ".svg") else out
    options.check_place(stem.with_name(f"{stem.name}.png"))
    if chosen != "rd":
        options.refuse_idle(f"plot {chosen}", {"--metric": metric != "psnr_db"})
    found = _read(records)
    coded = [point for record in found if hasattr(record, "points") for point in record.points]
    names = {image.name for point in coded for image in point.images}
    curves = options.curves_on_kodak(anchors, names, one_of(map(str, records)))
    quality = options.choice("--metric", metric, get_args(tcm_lab.evaluation.Quality))
    figure = reporting.plot_of(
        chosen, found, title=as_text(title), published=curves, quality=quality
    )
    for path in reporting.save_figure(figure, stem):
        print(path)


def _read(paths: Sequence[Path]) -> list[Any]:
    return [record for path in paths for record in tcm_lab.reporting.read_records(path)]


def models(
    pattern: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATTERN")] = "*",
    /,
    *,
    trained: Flag = False,
) -> None:
    """List the models that commands accept by name.

    Args:
        pattern: Pattern of names, such as 'tcm-*'.
        trained: List only those with trained weights in the package.
    """
    known = tcm_lab.codec.trained_names() if trained else tcm_lab.list_models()
    names = matching(known, pattern)
    if not names:
        raise LabError(f"'{pattern}': no model's name matches.{near(pattern, known)}")
    print("\n".join(names))


def card(name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")], /) -> None:
    """Print the card of a trained codec: data, recipe, curve, limits and licence.

    Args:
        name: Trained codec of the package, such as tcm-nano.
    """
    known = options.choice("NAME", name, tcm_lab.codec.trained_names())
    print(tcm_lab.codec.checkpoint_file(known).with_name("README.md").read_text("utf-8"), end="")


def blocks(*, output: Output) -> None:
    """List the blocks, attention modules, resamplers and entropy models that YAML can name.

    Args:
        output: How the result is shown.
    """
    lab = tcm_lab.blocks
    layers: list[Any] = [lab.BLOCKS, lab.ATTENTIONS, lab.RESAMPLERS]
    output.show(tcm_lab.reporting.layer_table([*layers, tcm_lab.codec.ENTROPY_MODELS]))

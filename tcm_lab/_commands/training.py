"""Commands that train and evaluate."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tcm_lab._commands import options
from tcm_lab._commands.options import File, Flag, Form, Model, Overrides
from tcm_lab._utils.progress import progress
from tcm_lab.errors import LabError


def train(
    model: Model,
    /,
    *,
    data: Path | None = None,
    out: Path | None = None,
    recipe: Literal["published", "short", "laptop"] = "published",
    lambdas: tuple[float, ...] = (),
    metric: Literal["mse", "ms-ssim"] | None = None,
    steps: int | None = None,
    batch: int | None = None,
    crop: int | None = None,
    lr: float | None = None,
    ema: float | None = None,
    seed: int = 0,
    rate_levels: int | None = None,
    overrides: Overrides = (),
    init: Path | None = None,
    resume: Flag = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    devices: int = 1,
    precision: Literal["32-true", "bf16-mixed"] | None = None,
    channels_last: Flag = False,
    compile: Flag = False,
) -> int:
    """Train a model; Ctrl-C keeps its state, and --resume goes on from it.

    Args:
        model: a preset, compressai/NAME or a YAML file.
        data: folder of images; by default the embedded photographs and dead leaves.
        out: folder for weights, state and logs; by default runs/MODEL.
        recipe: where every setting that is not given here comes from.
        lambdas: rate-distortion weights: one, or one per rate level.
        metric: distortion that is minimised.
        steps: updates of the weights.
        batch: crops per step over all devices.
        crop: side of a crop in pixels.
        lr: learning rate.
        ema: decay of the weights' moving average; 0 is off.
        seed: of weights, crops and noise.
        rate_levels: learn that many rates in one run; 0 for one rate.
        overrides: fields of the model to change.
        init: start from the weights of this checkpoint.
        resume: go on from the state in the folder.
        device: where to train.
        devices: processes, one device each.
        precision: arithmetic; the entropy model stays in float32.
        channels_last: keep channels innermost in memory.
        compile: compile the model first.
    """
    from tcm_lab.codec import build
    from tcm_lab.data import CropSource, open_images
    from tcm_lab.training import get_recipe, progress_line, warm_start
    from tcm_lab.training import train as run

    levels = [] if rate_levels is None else [f"rate_levels={rate_levels}"]
    codec = build(options.changed(model, [*overrides, *levels]), seed=seed)
    given = {
        "metric": metric,
        "steps": steps,
        "batch": batch,
        "crop": crop,
        "lr": lr,
        "ema": ema,
        "precision": precision,
        "channels_last": channels_last or None,
        "compile": compile or None,
        "lambdas": lambdas or None,
    }
    chosen = get_recipe(recipe, seed=seed, **{k: v for k, v in given.items() if v is not None})
    learned = int(getattr(getattr(codec, "config", None), "rate_levels", 0))
    if not lambdas and learned:
        chosen = chosen.spread(learned)
    elif not lambdas and len(chosen.lambdas) > 1:
        raise LabError(
            f"--lambdas: this model has one rate and is trained at one lambda. Give one of the "
            f"recipe's ({', '.join(map(str, chosen.lambdas))}), or learn all by "
            f"--rate-levels {len(chosen.lambdas)}."
        )
    if init is not None:
        warm_start(codec, init)
    folder = Path("runs") / Path(model).stem if out is None else out
    crops = CropSource(open_images(data, "train"), crop=chosen.crop, seed=seed)
    with progress_line(Path(model).stem) as on_progress:
        record = run(
            codec,
            chosen,
            crops,
            directory=folder,
            resume=resume,
            on_progress=on_progress,
            accelerator=device,
            devices=devices,
        )
    print(f"{folder}: {record.steps} steps, {record.bpp:.3f} bpp, {record.psnr_db:.2f} dB")
    return 0


def evaluate(
    checkpoint: File,
    /,
    *,
    data: Path | None = None,
    rates: tuple[float, ...] = (),
    anchors: tuple[Literal["jpeg", "webp"], ...] = (),
    published: tuple[str, ...] = (),
    bd_rate: Annotated[str | None, tyro.conf.arg(metavar="ANCHOR")] = None,
    device: str = "cpu",
    format: Form | Literal["compressai"] = "markdown",
    out: Path | None = None,
) -> int:
    """Code whole images to real bytes, decode them, and measure rate and distortion.

    Args:
        checkpoint: weights, ours or in the published layout.
        data: folder of images; by default the embedded evaluation photographs.
        rates: positions between the levels of a rate-conditioned model; by default its levels.
        anchors: code the same images with these, too.
        published: add published curves, such as vtm; only where the images are Kodak's.
        bd_rate: add BD-rates against this anchor or published curve.
        device: where to compute.
        format: what to print; compressai is CompressAI's result format.
        out: write to this file instead.
    """
    from tcm_lab import evaluation as lab
    from tcm_lab import reporting
    from tcm_lab.codec import load_checkpoint
    from tcm_lab.data import open_images

    codec = load_checkpoint(checkpoint).to(device)
    images = open_images(data, "eval")
    wanted = dict.fromkeys([*published, *([bd_rate] if bd_rate and bd_rate not in anchors else [])])
    if wanted and not all(re.search(r"kodim\d\d\.\w+$", name) for name in images.names):
        raise LabError(
            f"{next(iter(wanted))}: published curves are Kodak's, and {images.origin} holds other "
            "images. Name a folder with kodim01 to kodim24, or compare with --anchors."
        )
    curves = [lab.published_curve(name) for name in wanted]
    with progress(f"{codec.config.name}, coding") as on_progress:
        record = lab.evaluate(
            codec, images, name=codec.config.name, rates=rates or None, on_progress=on_progress
        )
    if format == "compressai":
        options.print_or_write(json.dumps(record.to_compressai_json(), indent=1) + "\n", out)
        return 0
    records = [record]
    for name in anchors:
        with progress(f"{name}, coding") as on_progress:
            records.append(lab.evaluate_anchor(name, images, on_progress=on_progress))
    if format == "json":
        options.print_or_write(reporting.records_json(records), out)
        return 0
    tables = [reporting.rd_table(records, published=curves)]
    if bd_rate:
        known = {r.name: r.curve() for r in records} | {curve.name: curve for curve in curves}
        judged = {r.name: r.curve() for r in records if r.name != bd_rate}
        tables.append(reporting.bd_rate_table(judged, known[bd_rate]))
    options.show(tables, format, out)
    return 0

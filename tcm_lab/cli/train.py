"""Commands that train a codec and evaluate a checkpoint."""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, get_args

import tyro

import tcm_lab
from tcm_lab._utils.devices import checked_device, checked_precision
from tcm_lab._utils.files import write_atomically
from tcm_lab._utils.progress import duration, progress
from tcm_lab.cli import options
from tcm_lab.cli.models import (
    Arguments,
    Entry,
    Model,
    Models,
    Overrides,
    Weights,
    built,
    entries,
    loaded,
)
from tcm_lab.cli.options import Flag, Output
from tcm_lab.errors import LabError

if TYPE_CHECKING:
    from tcm_lab.data import ImageSet
    from tcm_lab.evaluation import Counted, RdRecord
    from tcm_lab.training import Recipe

_RATE_LEVELS = 4
_WORTH_TIMING = 100  # steps: fewer are finished before their time is estimated


class Settings(TypedDict, total=False):
    """Settings that replace the recipe's.

    Attributes:
        lambdas: Rate-distortion weights: one, or one per rate level.
        metric: Distortion to minimise: mse or ms-ssim.
        steps: Updates of the weights.
        batch: Crops per step over all devices.
        crop: Side of a crop in pixels.
        lr: Learning rate.
        linear_steps: Updates of the linear phase before the first step, if the start is linear.
        cca: Weight of CCA's loss, which moves information into early slices; 0 is off.
        ema: Decay of the weights' moving average; 0 is off.
        precision: 32-true (a GPU's convolutions in TF32, torch's default) or bf16-mixed;
            likelihoods stay in float32.
    """

    lambdas: Annotated[tuple[float, ...], options.UNSET]
    metric: Annotated[str, options.UNSET]
    steps: Annotated[int, options.UNSET]
    batch: Annotated[int, options.UNSET]
    crop: Annotated[int, options.UNSET]
    lr: Annotated[float, options.UNSET]
    linear_steps: Annotated[int, options.UNSET]
    cca: Annotated[float, options.UNSET]
    ema: Annotated[float, options.UNSET]
    precision: Annotated[str, options.UNSET]


def train(
    model: Model,
    /,
    *,
    data: Path | None = None,
    out: Path | None = None,
    recipe: str = "laptop",
    settings: Settings,
    seed: int = 0,
    rate_levels: int | None = None,
    overrides: Overrides = (),
    init: Path | None = None,
    resume: Flag = False,
    device: str = "auto",
    devices: int = 1,
    channels_last: Flag = False,
    compile: Flag = False,
    track: tuple[str, ...] = (),
    eval_data: Path | None = None,
    skip_evaluation: Flag = False,
) -> None:
    """Train a model, and compare it with JPEG and WebP; Ctrl-C saves, --resume continues.

    Args:
        model: Preset, YAML file, compressai/NAME, or your own codec: FILE.py:FACTORY or
            package.module:FACTORY.
        data: Folder of images; by default the embedded photographs and dead leaves.
        out: Folder for weights, state and logs; by default runs/MODEL.
        recipe: Recipe for all settings not given here: minute, laptop (ten minutes on two cores
            for tcm-nano), hour, study, scratch, short or published.
        settings: Settings that replace the recipe's.
        seed: Seed of weights, crops and noise.
        rate_levels: Number of rates to learn in one run; 0 for a single rate. By default 4 for a
            preset with a recipe that leaves the lambdas open, such as laptop.
        overrides: Fields of the model to change.
        init: Checkpoint, or trained codec (tcm-nano), whose weights to start from.
        resume: Continue from the state in the folder.
        device: auto, cpu or cuda.
        devices: Number of processes, one device each.
        channels_last: Use the channels-last memory layout.
        compile: Compile the model first.
        track: Trackers that also receive the log: tensorboard (automatic if installed), mlflow,
            wandb (offline by default) or trackio; each needs the extra of its name.
        eval_data: Folder of images to code afterwards; by default the embedded photographs.
        skip_evaluation: Train without evaluating.
    """
    lab = tcm_lab.training
    if skip_evaluation:
        options.refuse_idle("--skip-evaluation", {"--eval-data": eval_data})
    flags = {"channels_last": channels_last, "compile": compile}
    given = {**settings, **{name: True for name, on in flags.items() if on}}
    chosen = lab.get_recipe(recipe, seed=seed, **given)
    levels = [] if rate_levels is None else [f"rate_levels={rate_levels}"]
    codec = built(model, [*overrides, *levels], seed)
    adapter = tcm_lab.codec.CodecAdapter(codec)
    is_chosen = any(word.partition("=")[0] == "rate_levels" for word in (*overrides, *levels))
    is_open = not (is_chosen or chosen.lambdas)
    if is_open and adapter.config is not None and not adapter.rate_levels:
        several = adapter.config.override({"rate_levels": _RATE_LEVELS})
        codec = tcm_lab.build(several, seed=seed)
        adapter = tcm_lab.codec.CodecAdapter(codec)
    if "lambdas" not in settings:
        chosen = _for_rates(chosen, adapter.rate_levels)
    if not (skip_evaluation or adapter.can_code):
        raise LabError(
            f"{adapter.name}: cannot be evaluated, since it lacks compress() or decompress(). Add "
            "them, or train it with --skip-evaluation."
        )
    accelerator = _accelerator(device, devices)
    trackers = lab.open_trackers(track)
    name = Entry(model).name
    folder = Path("runs") / name if out is None else out
    options.check_place(folder, folder=True)
    lab.check_directory(folder, resume=resume)
    is_first = int(os.environ.get("LOCAL_RANK", 0)) == 0  # of several processes
    has_state = lab.find_state(folder) is not None
    if resume and not has_state and is_first:
        print(f"tcm-lab: warning: no state in {folder}; starting over", file=sys.stderr)
    beginning = "" if init is None else _beginning(codec, init, chosen.start, settings, has_state)
    if init is not None:
        chosen = chosen.without_start()
    elif resume and "linear_steps" not in settings:
        chosen = lab.as_begun(chosen, folder)
    images = tcm_lab.data.open_images(data, "train")
    judged_on = None if skip_evaluation else tcm_lab.data.open_images(eval_data, "eval")
    chosen = chosen.suited(adapter.latent_channels, adapter.rate_levels)
    lab.check_cca(chosen, adapter.config)
    if is_first:
        print(f"{name}: {_plan(chosen, beginning)}")
        if chosen.steps > _WORTH_TIMING and not (resume or compile or devices > 1):
            print("Timing a few steps to estimate the duration.")
            pace = lab.measure_pace(lambda: copy.deepcopy(codec), chosen, images, accelerator)
            print(f"About {duration(pace.training_s(chosen.steps))} on this machine.")
    crops = tcm_lab.data.CropSource(images, crop=chosen.crop, seed=seed)
    with lab.progress_line(name) as on_progress:
        record = lab.train(
            codec, chosen, crops, directory=folder, resume=resume, on_progress=on_progress,
            accelerator=accelerator, devices=devices, trackers=trackers,
        )  # fmt: skip
    if not is_first:
        return
    print(f"{folder}: {record.steps} steps, {record.bpp:.3f} bpp, {record.psnr_db:.2f} dB")
    if judged_on is not None:
        _compare_with_anchors(codec, judged_on, record.recipe, folder)


def _accelerator(device: str, devices: int) -> Any:
    """Return the requested device, if there are enough of them.

    Raises:
        LabError: there are not enough.
    """
    accelerator = options.choice("--device", device, ("auto", "cpu", "cuda"))
    if devices < 1:
        raise LabError(f"--devices {devices}: must be at least 1.")
    if accelerator == "cuda":
        checked_device("cuda", "--device")
    import torch

    found = torch.cuda.device_count() if accelerator != "cpu" and torch.cuda.is_available() else 0
    if found and devices > found:
        raise LabError(f"--devices {devices}: torch finds {found} GPU{'s' * (found > 1)} here.")
    return accelerator


def _beginning(codec: Any, init: Path, start: str, settings: Settings, has_state: bool) -> str:
    """Initialise a codec from the checkpoint of ``--init``, and return a note for the plan.

    Raises:
        LabError: the folder has a state to resume from, or the checkpoint doesn't fit.
    """
    if has_state:
        raise LabError(
            f"--init {init}: the folder holds the state of a training that has begun. Leave --init "
            "out to resume it, or choose another --out."
        )
    options.refuse_idle("--init", {"--linear-steps": settings.get("linear_steps")})
    tcm_lab.training.warm_start(codec, init)
    return f" from the weights of {init}" + (" in place of its start" if start != "none" else "")


def _plan(recipe: Recipe, beginning: str) -> str:
    """Describe how a model will be trained, including its lambdas."""
    crops = f"{recipe.batch} crop{'s' if recipe.batch > 1 else ''} of {recipe.crop}x{recipe.crop}"
    lambdas = ", ".join(f"{value:.3g}" for value in recipe.lambdas)
    what = "λ·255²·MSE + bpp" if recipe.metric == "mse" else "λ·(1 - MS-SSIM) + bpp"
    steps = f"{recipe.steps:,} steps of {crops}"
    return f"recipe {recipe.name}{beginning}, {steps}, λ = {lambdas} ({what})"


def _compare_with_anchors(codec: Any, images: ImageSet, recipe: Recipe, folder: Path) -> None:
    """Code images with a codec, JPEG and WebP; write records and curves, and print a table."""
    lab, reporting = tcm_lab.evaluation, tcm_lab.reporting
    with progress("coding") as on_progress:
        record = lab.evaluate(codec, images, recipe=recipe, on_progress=on_progress)
    anchors = []
    for name in get_args(lab.Anchor):
        try:
            with progress(f"{name}, coding") as on_progress:
                anchors.append(lab.evaluate_anchor(name, images, on_progress=on_progress))
        except LabError as error:  # the curve of the finished training is useful without it
            print(f"tcm-lab: warning: {error}", file=sys.stderr)
    write_atomically(folder / "rd.json", reporting.records_json([record, *anchors]))
    figure = reporting.plot_of("rd", [record, *anchors])
    drawn = reporting.save_figure(figure, folder / "rd")
    table = reporting.beside_table(lab.measured_curves([record]), anchors)
    print(f"\n{reporting.render(table, 'markdown')}")
    print(f"Curves  {', '.join(map(str, drawn))}; records in {folder / 'rd.json'}")


def _for_rates(recipe: Recipe, levels: int) -> Recipe:
    """Return a recipe with one lambda per rate level, if the model has levels."""
    if levels:
        return recipe.spread(levels)
    if len(recipe.lambdas) > 1:
        raise LabError(
            "--lambdas: this model has one rate and needs one lambda. Give one of the recipe's "
            f"({', '.join(map(str, recipe.lambdas))}), or learn them all with "
            f"--rate-levels {len(recipe.lambdas)}."
        )
    return recipe


def evaluate(
    models: Models,
    /,
    *,
    arguments: Arguments = (),
    checkpoints: Weights = (),
    data: Path | None = None,
    rates: tuple[float, ...] = (),
    anchors: tuple[str, ...] = (),
    metrics: tuple[str, ...] = (),
    bd_rate: Annotated[str | None, tyro.conf.arg(metavar="ANCHOR", help_behavior_hint="")] = None,
    device: str = "cpu",
    precision: str = "float32",
    output: Output,
) -> None:
    """Code whole images to real bytes, decode them, and measure rate and distortion.

    Checkpoints of one architecture and recipe at different lambdas are points of one curve; seeds
    of the same lambda are repetitions.

    Args:
        models: Checkpoints, ours or in the layout of the authors' code, or trained codecs of the
            package by name (tcm-nano); or your own codecs, FILE.py:FACTORY or
            package.module:FACTORY, and compressai/NAME.
        arguments: Arguments of your own codec's factory, such as width=24.
        checkpoints: Weights of your own codec or of compressai/NAME, one file per lambda.
        data: Folder of images; by default the embedded evaluation photographs.
        rates: Positions on or between a rate-conditioned model's levels; by default its levels.
        anchors: Codecs to compare with: jpeg and webp are run on the same images; vtm, bpg and
            other published curves are for Kodak images only.
        metrics: Image metrics in addition to PSNR, PSNR-YUV (BT.709, 6:1:1), SSIM and MS-SSIM:
            lpips, dists. They need the extra perceptual, and torchvision's AlexNet or VGG16 in
            torch's cache.
        bd_rate: Add BD-rates against this anchor. Against jpeg and webp, neither side's file
            headers count; against published curves, whole files do.
        device: cpu or cuda.
        precision: Arithmetic of the networks: float32, tf32 (GPUs only), bfloat16 or float16.
        output: How the result is shown. compressai is another format, that of CompressAI's results.
    """
    lab, reporting = tcm_lab.evaluation, tcm_lab.reporting
    output.check("compressai")
    place = checked_device(device, "--device")
    chosen = checked_precision(precision, place, "--precision")
    wanted = dict.fromkeys([*anchors, *([bd_rate] if bd_rate else [])])
    runnable = [name for name in get_args(lab.Anchor) if name in wanted]
    if output.chosen == "compressai":
        options.refuse_idle("the format compressai", {"--anchors": anchors, "--bd-rate": bd_rate})
    if output.chosen == "json":  # of records
        unmeasured = [name for name in anchors if name not in runnable]
        idle = {f"--anchors {' '.join(unmeasured)}": unmeasured, "--bd-rate": bd_rate}
        options.refuse_idle("the format json", idle)
    images = tcm_lab.data.open_images(data, "eval")
    published = [name for name in wanted if name not in runnable]
    curves = options.curves_on_kodak(published, images.names, images.origin)
    lab.check_requested(metrics)
    records = []
    named = entries(models, checkpoints, arguments)
    for entry, codec in loaded(named, rates, _trained):
        recipe = tcm_lab.training.read_recipe(entry.weights or entry.model)
        with progress(f"{entry.name}, coding") as on_progress:
            record = lab.evaluate(
                codec.to(place), images, rates=rates or None, recipe=recipe, metrics=metrics,
                precision=chosen, on_progress=on_progress,
            )  # fmt: skip
        records.append(record)
    if output.chosen == "compressai":
        output.write(_compressai_json(records))
        return
    for name in runnable:
        with progress(f"{name}, coding") as on_progress:
            found = lab.evaluate_anchor(name, images, metrics=metrics, on_progress=on_progress)
        records.append(found)
    tables = [reporting.rd_table(records, published=curves)]
    if bd_rate:
        counted: Counted = "payload" if bd_rate in runnable else "file"
        found_curves = lab.measured_curves(records)
        measured = {curve.label: curve.curve(counted=counted) for curve in found_curves}
        if bd_rate in runnable:
            anchor = measured.pop(bd_rate)
        else:  # a codec of ours may have the name of the published one
            anchor = next(curve for curve in curves if curve.name == bd_rate)
        tables.append(reporting.bd_rate_table(measured, anchor))
    output.show_records(records, tables)


def _trained(entry: Entry) -> Any:
    """Return an entry's codec with trained weights."""
    own = tcm_lab.codec.is_own(entry.model)  # its factory may load weights
    return entry.codec() if own or entry.weights else tcm_lab.load_checkpoint(entry.model)


def _compressai_json(records: Sequence[RdRecord]) -> str:
    """Return one curve in the form of CompressAI's result files."""
    curves = tcm_lab.evaluation.measured_curves(records)
    if len(curves) > 1 or len(curves[0].records) > 1:
        found = ", ".join(f"{c.label} ({len(c.records)} seeds)" for c in curves)
        raise LabError(
            f"--format compressai: holds one curve of one seed, but these checkpoints make more: "
            f"{found}. Write a file for each."
        )
    return json.dumps(curves[0].records[0].to_compressai_json(), indent=1) + "\n"

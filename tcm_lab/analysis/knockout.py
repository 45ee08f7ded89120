"""Loss against MACs: what a part of a codec costs, and what is lost without it.

There are two ways to measure this. Codecs *trained* with and without the part show its worth
(`compare_trained`). A part *removed* from a trained codec shows how much that codec relies on it
(`knock_out`): an upper bound, since nothing else was trained to replace it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from tcm_lab._utils import Frozen
from tcm_lab._utils.environment import Environment, environment
from tcm_lab._utils.hooks import hooked
from tcm_lab._utils.progress import OnDone
from tcm_lab.analysis._probe import Images, image_names, iterate_images, run
from tcm_lab.blocks.swin import SwinLayer
from tcm_lab.blocks.tcm import ConvBranch
from tcm_lab.codec import CodecAdapter, bits
from tcm_lab.codec.adapter import unwrapped
from tcm_lab.complexity import CONVENTIONS, ComplexityRecord, Target
from tcm_lab.complexity.counters import count_by
from tcm_lab.complexity.counters.meta import tried
from tcm_lab.errors import LabError
from tcm_lab.evaluation import RdRecord, lagrangian_interval
from tcm_lab.stats import Interval, percent_change
from tcm_lab.training.log import psnr_db

_TRANSFORMS = ("g_a", "g_s", "h_a", "h_s")


class TrainedBenefit(Frozen):
    """A trained variant in comparison with its baseline.

    Attributes:
        name: name of the variant.
        baseline: name of the baseline.
        kmacs_per_px: cost of the variant's whole forward pass.
        change_kmacs_per_px: that cost minus the baseline's.
        parameters: number of the variant's learnable scalars.
        change_parameters: that number minus the baseline's.
        loss_percent: increase of the loss bpp + λ·255²·MSE over all rates.
    """

    name: str
    baseline: str
    kmacs_per_px: float
    change_kmacs_per_px: float
    parameters: int
    change_parameters: int
    loss_percent: Interval


def compare_trained(
    baseline: tuple[ComplexityRecord, Sequence[RdRecord]],
    variants: Sequence[tuple[ComplexityRecord, Sequence[RdRecord]]],
    lambdas: Sequence[float],
) -> tuple[TrainedBenefit, ...]:
    """Compare the costs and losses of trained variants with a baseline's.

    Args:
        baseline: cost, and evaluations of one or several training seeds.
        variants: the same for each variant, evaluated on the same images.
        lambdas: λ of the rates, in their order.

    Raises:
        LabError: the evaluations cannot be compared, or the costs are of different image sizes.
    """
    cost, records = baseline
    for other, _ in variants:
        if other.size != cost.size:
            raise LabError(
                f"{other.model} is counted at {other.size}, {cost.model} at {cost.size}; "
                "count both at the same size"
            )
    return tuple(
        TrainedBenefit(
            name=other.model,
            baseline=cost.model,
            kmacs_per_px=other.kmacs_per_px,
            change_kmacs_per_px=other.kmacs_per_px - cost.kmacs_per_px,
            parameters=other.total_parameters,
            change_parameters=other.total_parameters - cost.total_parameters,
            loss_percent=lagrangian_interval(records, curves, lambdas=lambdas),
        )
        for other, curves in variants
    )


class PartWorth(Frozen):
    """One part of a trained codec, and the effect of its removal.

    Attributes:
        part: name of the part.
        kind: ``convolution branch``, ``transformer branch``, ``LRP`` or ``other``.
        kmacs_per_px: cost of the part at the analysed size.
        loss_percent: increase of the loss without it.
        rate_percent: increase of the rate without it.
        psnr_db: mean change of PSNR without it.
    """

    part: str
    kind: str
    kmacs_per_px: float
    loss_percent: Interval
    rate_percent: Interval
    psnr_db: float


class KnockOutRecord(Frozen):
    """The parts that a trained codec relies on.

    Attributes:
        model: name of the model.
        images: names of the images.
        size: (height, width) of the first image, at which the MACs were counted.
        weight: λ of the loss bpp + λ·255²·MSE.
        bpp: estimated rate of the whole codec.
        psnr_db: mean PSNR of the whole codec, before rounding to bytes.
        parts: parts in the order of the model's modules.
        environment: device, threads, versions.
    """

    model: str
    images: tuple[str, ...]
    size: tuple[int, int]
    weight: float
    bpp: float
    psnr_db: float
    parts: tuple[PartWorth, ...]
    environment: Environment


def removable_parts(codec: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the removable parts of a codec assembled by this package, with their module names.

    They are the residual ones: each block's convolution and transformer branch, and LRP over all
    slices.
    """
    parts: dict[str, tuple[str, ...]] = {}
    lrp: tuple[str, ...] = ()
    for name, module in unwrapped(codec).named_modules():
        if _is_lrp(name):
            lrp += (name,)
        elif name.split(".")[0] in _TRANSFORMS and isinstance(module, ConvBranch | SwinLayer):
            parts[name] = (name,)
    return parts | ({"lrp": lrp} if lrp else {})


@torch.no_grad()
def knock_out(
    codec: nn.Module,
    images: Images,
    weight: float,
    *,
    parts: Mapping[str, Sequence[str]] | None = None,
    rate: float | None = None,
    on_part: OnDone | None = None,
) -> KnockOutRecord:
    """Remove each part from a trained codec, one at a time, and measure the loss without it.

    Args:
        codec: a codec assembled by this package.
        images: images of any size.
        weight: λ that the codec was trained for.
        parts: names of modules by part, which may overlap; by default `removable_parts`. A removed
            module of an LRP returns zero, any other its input.
        rate: level of a rate-conditioned codec; None is the lowest.
        on_part: callback receiving (parts done, total parts).

    Raises:
        LabError: there are no images or no parts, or a module does not exist, does not run, or
            changes the shape.
    """
    codec = unwrapped(codec)
    adapter = CodecAdapter(codec)
    chosen = removable_parts(codec) if parts is None else {k: tuple(v) for k, v in parts.items()}
    if not chosen:
        raise LabError(f"{adapter.name} has no part that can be removed")
    modules = dict(codec.named_modules(remove_duplicate=False))
    missing = [m for names in chosen.values() for m in names if m not in modules]
    if missing:
        raise LabError(f"parts: {adapter.name} has no module '{missing[0]}'")
    if empty := [part for part, names in chosen.items() if not names]:
        raise LabError(f"parts: '{empty[0]}' has no modules; name some or leave it out")
    names = image_names(images)
    first = next(iter(iterate_images(images, codec)))
    size = (int(first.shape[-2]), int(first.shape[-1]))
    macs, ran = _macs(codec, size, chosen), set[str]()
    every = dict.fromkeys(m for members in chosen.values() for m in members)
    with hooked(
        [modules[m].register_forward_hook(partial(_check_removable, ran, m)) for m in every]
    ):
        bpp, psnr_db, loss = _measured(codec, images, rate, weight)
    if idle := [m for m in every if m not in ran]:
        raise LabError(
            f"parts: '{idle[0]}' does not run in a forward pass, so it cannot be removed; name "
            "modules that run, such as those in it"
        )
    worth: list[PartWorth] = []
    for part, members in chosen.items():
        with hooked([modules[m].register_forward_hook(partial(_bypass, m)) for m in members]):
            bpp_without, psnr_without, loss_without = _measured(codec, images, rate, weight)
        worth.append(
            PartWorth(
                part=part,
                kind=_kind(members[0], modules[members[0]]),
                kmacs_per_px=macs[part] / (size[0] * size[1]) / 1e3,
                loss_percent=percent_change(loss, loss_without),
                rate_percent=percent_change(bpp, bpp_without),
                psnr_db=fmean(psnr_without) - fmean(psnr_db),
            )
        )
        if on_part is not None:
            on_part(len(worth), len(chosen))
    return KnockOutRecord(
        model=adapter.name,
        images=names,
        size=size,
        weight=weight,
        bpp=fmean(bpp),
        psnr_db=fmean(psnr_db),
        parts=tuple(worth),
        environment=environment(adapter.device),
    )


def _measured(
    codec: nn.Module, images: Images, rate: float | None, weight: float
) -> tuple[list[float], list[float], list[float]]:
    """Return each image's bpp by the likelihoods, its PSNR after clamping, and its loss."""
    rows = []
    for x in iterate_images(images, codec):
        out = run(codec, x, rate)
        bpp = float(bits(out["likelihoods"], torch.float64)) / (x.shape[-2] * x.shape[-1])
        mse = float((out["x_hat"].clamp(0, 1) - x).double().square().mean())
        rows.append((bpp, psnr_db(mse), bpp + weight * 255**2 * mse))
    rates, qualities, losses = (list(column) for column in zip(*rows, strict=True))
    return rates, qualities, losses


def _kind(name: str, module: nn.Module) -> str:
    if isinstance(module, SwinLayer):
        return "transformer branch"
    if isinstance(module, ConvBranch):
        return "convolution branch"
    return "LRP" if _is_lrp(name) else "other"


def _is_lrp(name: str) -> bool:
    return name.rpartition(".")[2] == "lrp"


def _check_removable(
    ran: set[str], name: str, module: nn.Module, args: tuple[Any, ...], output: Any
) -> None:
    """Add a module to those that ran, and refuse one that nothing can replace; a forward hook."""
    ran.add(name)
    if not isinstance(output, Tensor):
        raise LabError(
            f"parts: '{name}' returns {type(output).__name__}, not a tensor; name modules that "
            "return one"
        )
    given = args[0] if args else None
    if _is_lrp(name) or (isinstance(given, Tensor) and given.shape == output.shape):
        return
    taken = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
    raise LabError(
        f"parts: '{name}' turns {taken} into {tuple(output.shape)}, so its input cannot replace "
        "its output; name modules that keep the shape"
    )


def _bypass(name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Replace a module's output by its input, or by zero for an LRP; a forward hook."""
    return torch.zeros_like(output) if _is_lrp(name) else args[0]


def _macs(
    codec: nn.Module, size: tuple[int, int], parts: Mapping[str, Sequence[str]]
) -> dict[str, int]:
    """Return the MACs of each part on one image, padded as the codec pads it.

    They are counted once, by module; parts may overlap.
    """
    names: dict[nn.Module, list[str]] = defaultdict(list)
    for name, module in codec.named_modules(remove_duplicate=False):
        names[module].append(f"{name}.")
    target = tried(replace(Target.of(codec), group_of="{}.".format))
    counted = count_by("torch", target, target.padded_size(size)).parts
    macs = {
        name: sum(cost.macs.get(kind, 0) for kind in CONVENTIONS["all"])
        for name, cost in counted.items()
    }

    def of(members: Sequence[str]) -> int:
        paths = tuple(path for each in members for path in names[codec.get_submodule(each)])
        return sum(own for name, own in macs.items() if name.startswith(paths))

    return {part: of(members) for part, members in parts.items()}

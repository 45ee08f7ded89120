"""Find the parts of a codec that only its encoder runs, and those that only its decoder runs.

Names show it if they are CompressAI's (g_a, h_a, g_s) or the codec maps its own to them by an
attribute ``parts``. Of any other codec, a copy codes one small image, and the modules that run in
``compress`` and in ``decompress`` are recorded. One that runs in neither belongs to the direction
of all that it holds; a layer that runs in neither, such as one for likelihoods, counts for both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from tcm_lab._utils.hooks import hooked
from tcm_lab.codec import CodecAdapter
from tcm_lab.codec.adapter import copied, decompress, evaluating
from tcm_lab.complexity.record import ABSENT, Scope

_SIDE = 128


class UncountedWarning(UserWarning):
    """Something that a count leaves out or counts in another way; the message names it."""


@dataclass(frozen=True)
class Directions:
    """The parts by which a codec is counted.

    Attributes:
        part_of: maps the dotted name of a module or parameter to its part.
        absent: the parts that each scope does not run.
    """

    part_of: Callable[[str], str]
    absent: Mapping[Scope, frozenset[str]]


def directions_of(adapter: CodecAdapter) -> Directions:
    """Return a codec's parts: by names if they show them, otherwise by coding an image.

    Warns:
        UncountedWarning: neither names nor coding show the parts, so that every part is charged to
            both directions; or coding runs layers that a forward pass does not.
    """
    if adapter.has_named_parts or not adapter.can_code:  # or it is no codec
        return Directions(adapter.part_of, ABSENT)
    try:
        runs = _watch(CodecAdapter(copied(adapter.module)))
    except Exception as error:  # whatever a user's code raises
        warnings.warn(
            f"{adapter.name}: every part is charged to encoding and to decoding, since neither "
            "names nor a coded image tell them apart "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason'})"
            "; give it an attribute parts, such as {'encoder': 'g_a', 'decoder': 'g_s'}",
            UncountedWarning,
            stacklevel=2,
        )
        return Directions(adapter.part_of, ABSENT)
    return _by_runs(adapter, runs)


def _watch(adapter: CodecAdapter) -> dict[str, set[str]]:
    """Return for each module the passes in which it runs: encode, decode and whole."""
    model, runs = adapter.module, dict[str, set[str]]()
    phase = ["whole"]

    def record(name: str, *_: object) -> None:
        runs.setdefault(name, set()).add(phase[0])

    height, width = adapter.padded_size((_SIDE, _SIDE))
    x = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    x = x.to(adapter.device, adapter.dtype)
    modules = [
        module.register_forward_pre_hook(partial(record, name))
        for name, module in model.named_modules()
        if name
    ]
    with hooked(modules), evaluating(model), torch.no_grad():
        adapter.make_tables()
        adapter.forward(x)
        phase[0] = "encode"
        coded = model.compress(x)  # type: ignore[operator]  # CompressAI's method
        phase[0] = "decode"
        decompress(model, coded)
    return runs


def _by_runs(adapter: CodecAdapter, runs: Mapping[str, set[str]]) -> Directions:
    """Return parts by the top module that holds a module, and by the directions that run it."""
    directions: dict[str, str] = {}  # the only direction that runs a module; "" for both
    for name, seen in runs.items():
        held = (passes for inner, passes in runs.items() if inner.startswith(f"{name}."))
        coding = seen - {"whole"} or set[str]().union(*held) - {"whole"}
        directions[name] = coding.pop() if len(coding) == 1 else ""
    uncounted = sorted(
        name
        for name, seen in runs.items()
        if "whole" not in seen and _computes(adapter.module.get_submodule(name))
    )
    if uncounted:
        warnings.warn(
            f"{adapter.name}: counted as nothing, since they run while coding but not in a forward "
            f"pass: {', '.join(uncounted)}",
            UncountedWarning,
            stacklevel=2,
        )
    tops: dict[str, set[str]] = {}
    for name, direction in directions.items():
        tops.setdefault(adapter.part_of(name), set()).add(direction)

    def part_of(name: str) -> str:
        part = adapter.part_of(name)
        if len(tops.get(part, ())) < 2:
            return part
        steps = name.split(".")
        prefixes = (".".join(steps[:end]) for end in range(len(steps), 0, -1))
        direction = next((directions[prefix] for prefix in prefixes if prefix in directions), "")
        return f"{part} ({direction} only)" if direction else part

    def run_by(direction: str) -> frozenset[str]:
        return frozenset(part_of(name) for name, only in directions.items() if only == direction)

    absent: dict[Scope, frozenset[str]] = {"encode": run_by("decode"), "decode": run_by("encode")}
    return Directions(part_of, {**absent, "whole": frozenset()})


def _computes(module: nn.Module) -> bool:
    """Return whether a module is a layer, and not only a container of layers."""
    return not any(module.children()) or any(True for _ in module.parameters(recurse=False))

"""The one question: what does this model cost on an image of this size?"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from tcm_lab.blocks import NoFormula
from tcm_lab.complexity._stack import parameters_by_kind
from tcm_lab.complexity._target import Measurable, Target, versions
from tcm_lab.complexity.formula import count_by_formula
from tcm_lab.complexity.fvcore_counter import count_with_fvcore
from tcm_lab.complexity.memory import peak_memory
from tcm_lab.complexity.ptflops_counter import count_with_ptflops
from tcm_lab.complexity.record import ComplexityRecord, CounterName
from tcm_lab.complexity.torch_counter import count_with_torch
from tcm_lab.errors import LabError, near, one_of

_BYTES = 4  # float32
COUNTERS: tuple[CounterName, ...] = ("formula", "torch", "fvcore", "ptflops")


class UncountedWarning(UserWarning):
    """Something that a count leaves out or had to count another way, by name."""


def measure_complexity(
    model: Measurable,
    size: tuple[int, int] = (512, 768),
    *,
    counter: CounterName = "formula",
    memory: bool = False,
) -> ComplexityRecord:
    """Count parameters and multiply-accumulates, without weights and without data.

    Args:
        model: a preset's name, ``compressai/<name>``, a YAML file, a configuration or a model.
        size: (height, width) of the image, before padding.
        counter: what counts. Models that are not ours, and blocks without a closed formula, are
            counted by torch's `FlopCounterMode`; the record says so.
        memory: whether to measure the peak memory of a forward pass too.

    Raises:
        LabError: the model, the size or the counter does not exist.

    Warns:
        UncountedWarning: a block has no formula, or an operator's products are unknown.
    """
    if counter not in COUNTERS:
        raise LabError(
            f"no counter is called '{counter}'.{near(counter, COUNTERS)} Write {one_of(COUNTERS)}."
        )
    if len(size) != 2 or min(size) < 1:
        raise LabError(f"size = {size} is no image; give (height, width), both at least 1")
    target = Target.of(model)
    record = _count(target, (int(size[0]), int(size[1])), counter)
    if record.unknown_operators:
        warnings.warn(
            f"{record.model}: counted as nothing, since {record.counter} knows no formula: "
            f"{', '.join(record.unknown_operators)}",
            UncountedWarning,
            stacklevel=2,
        )
    if memory:
        peak = peak_memory(target.on_meta, target.padded_size(record.size))
        record = record.model_copy(update={"peak_memory_bytes": peak})
    return record


def _count(target: Target, size: tuple[int, int], counter: CounterName) -> ComplexityRecord:
    if counter == "formula":
        if target.config is None:
            return _count(target, size, "torch")
        try:
            macs, parameters, activations = count_by_formula(target.config, size)
        except NoFormula as missing:
            warnings.warn(
                f"{target.name}: {missing}; counted by torch instead",
                UncountedWarning,
                stacklevel=3,
            )
            return _count(target, size, "torch")
        return _record(target, size, counter, macs, activations, parameters=parameters)
    model, padded = target.on_meta, target.padded_size(size)
    if counter == "torch":
        count = count_with_torch(model, padded, target.part_of)
        return _record(target, size, counter, count.macs, count.activations, unknown=count.unknown)
    if counter == "fvcore":
        by_part = count_with_fvcore(model, padded, target.part_of).by_part
    else:
        by_part = count_with_ptflops(model, padded, target.part_of).by_part
    return _record(target, size, counter, by_part, {}, packages=(counter,))


def _record(
    target: Target,
    size: tuple[int, int],
    counter: CounterName,
    macs: Mapping[str, Mapping[str, int]],
    activations: Mapping[str, int],
    *,
    parameters: Mapping[str, Mapping[str, int]] | None = None,
    unknown: tuple[str, ...] = (),
    packages: tuple[str, ...] = (),
) -> ComplexityRecord:
    if parameters is None:
        parameters = parameters_by_kind(target.on_meta, target.part_of)
    scalars = sum(sum(by_kind.values()) for by_kind in parameters.values())
    return ComplexityRecord(
        model=target.name,
        fingerprint=target.fingerprint,
        size=size,
        padded_size=target.padded_size(size),
        parameters={part: _plain(by_kind) for part, by_kind in parameters.items()},
        macs={part: _plain(by_kind) for part, by_kind in macs.items()},
        activations=dict(activations),
        weight_bytes=_BYTES * scalars,
        counter=counter,
        unknown_operators=unknown,
        versions=versions(*packages),
    )


def _plain(counts: Mapping[str, int]) -> dict[str, int]:
    """Return plain keys and values, zeros left out."""
    return {str(kind): int(count) for kind, count in counts.items() if count}

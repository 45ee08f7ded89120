"""Measure the cost of a model on an image of one size."""

from __future__ import annotations

import warnings

from tcm_lab._utils.environment import versions
from tcm_lab.blocks import NoFormula
from tcm_lab.codec.inputs import sides_of
from tcm_lab.complexity.counters import count_by
from tcm_lab.complexity.counters.meta import tried
from tcm_lab.complexity.directions import UncountedWarning
from tcm_lab.complexity.memory import decode_peak_memory, peak_memory
from tcm_lab.complexity.record import ComplexityRecord, CounterName
from tcm_lab.complexity.target import Measurable, Target


def measure_complexity(
    model: Measurable,
    size: tuple[int, int] = (512, 768),
    *,
    counter: CounterName = "formula",
    memory: bool = False,
) -> ComplexityRecord:
    """Count parameters and multiply-accumulates, without weights and without data.

    Args:
        model: a preset's name, ``compressai/<name>``, ``my_codec.py:factory``, a YAML file, a
            configuration or a model. For your own model, the layers that encoding and decoding run
            follow from their names, from its attribute ``parts``, or from coding an image; see
            `tcm_lab.codec.CodecAdapter`.
        size: (height, width) of the image, before padding.
        counter: the counter. Without a closed formula (for a foreign model, or for one of the
            blocks), ``torch`` counts instead, and the record says so.
        memory: whether to measure peak memory too, of a forward pass and of decoding.

    Raises:
        LabError: the model, the size or the counter does not exist.

    Warns:
        UncountedWarning: a block has no formula, an operator's products are unknown, or it is
            unknown which parts encoding and decoding run.
    """
    target, size = Target.of(model), sides_of("size", size)
    padded = target.padded_size(size)
    if counter != "formula" or memory:
        target = tried(target)
    try:
        count = count_by(counter, target, padded)
    except NoFormula as missing:
        if target.config is not None:
            message = f"{target.name}: {missing}; counted by torch instead"
            warnings.warn(message, UncountedWarning, stacklevel=2)
        counter, target = "torch", tried(target)
        count = count_by(counter, target, padded)
    if count.unknown_operators:
        message = (
            f"{target.name}: counted as nothing, since {counter} has no formula: "
            f"{', '.join(count.unknown_operators)}"
        )
        warnings.warn(message, UncountedWarning, stacklevel=2)
    tool = {counter.removesuffix("-aten")} & {"fvcore", "ptflops"}
    return ComplexityRecord(
        model=target.name,
        fingerprint=target.fingerprint,
        size=size,
        padded_size=padded,
        parts=count.parts,
        absent={scope: tuple(sorted(parts)) for scope, parts in target.absent.items()},
        peak_memory_bytes=peak_memory(target.runnable, padded) if memory else None,
        decode_peak_memory_bytes=decode_peak_memory(target, padded) if memory else None,
        counter=counter,
        unknown_operators=count.unknown_operators,
        versions=versions("tcm-lab", "torch", *tool),
    )

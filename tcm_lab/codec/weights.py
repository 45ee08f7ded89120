"""Weights of codecs that were not assembled here: a user's own, and CompressAI's models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tcm_lab._compat.torchvision import import_compressai
from tcm_lab.codec.checkpoint import read_state, save_checkpoint
from tcm_lab.codec.model import Codec
from tcm_lab.codec.names import is_own
from tcm_lab.codec.state_dicts import (
    TABLES,
    CheckpointError,
    misfit,
    own_name,
    refuse_other_state,
    table_names,
    write_tensors,
)
from tcm_lab.codec.zoo import build, own_factory
from tcm_lab.errors import ConfigError

_FORMAT = "tcm_lab.weights/1"


def load_weights(codec: nn.Module, source: str | Path | Mapping[str, Any]) -> nn.Module:
    """Fill a codec that was not assembled here, and return it in evaluation mode.

    Args:
        codec: changed in place; entropy tables that it had follow the weights.
        source: a torch or safetensors file, or a state dict. What training loops,
            ``torch.compile`` and data parallelism put around the tensors is taken off.

    Raises:
        CheckpointError: the file can't be read, or its tensors are not the codec's.
    """
    origin = "the state dict" if isinstance(source, Mapping) else str(source)
    own, tables = codec.state_dict(), table_names(codec)
    tensors = read_state(source, own.keys())
    wanted = {name: value for name, value in own.items() if name not in tables}
    given = {n: value for n, value in tensors.items() if n in wanted or own_name(n) not in TABLES}
    found = misfit(given, wanted)
    faults = [f"{name} is {kind}" for kind in ("missing", "unknown") for name in found[kind]]
    faults += found["of another shape"]
    if faults:
        more = f"; {len(faults) - 3} more" if len(faults) > 3 else ""
        raise CheckpointError(
            f"{origin}: does not fit {type(codec).__name__}: {'; '.join(faults[:3])}{more}"
        )
    nn.Module.load_state_dict(codec, given, strict=False)
    kind = import_compressai().entropy_models.EntropyBottleneck
    for prior in codec.modules():
        if isinstance(prior, kind) and prior._quantized_cdf.numel():
            prior.update(force=True)
    return codec.eval()


def save_weights(codec: nn.Module, path: Path, extra: Mapping[str, Any]) -> None:
    """Write a codec's tensors and how they were made; of one assembled here, a checkpoint.

    Args:
        codec: what to save; the configuration of a foreign one is the user's code.
        path: the file, for ``load_checkpoint``, or of a foreign codec for ``load_weights``.
        extra: JSON values for ``read_extra``.

    Raises:
        LabError: a module saves something else than tensors, or the file cannot be written; an
            older one is untouched.
    """
    if isinstance(codec, Codec):
        save_checkpoint(codec, path, extra)
        return
    refuse_other_state(codec)
    write_tensors(path, codec.state_dict(), _FORMAT, extra)


def load_foreign(
    name: str, checkpoint: str | Path, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build a codec by name and fill it; of other widths, by its class's ``from_state_dict``.

    Args:
        name: ``my_codec.py:factory``, ``my_package.module:factory`` or ``compressai/<name>``.
        checkpoint: file of its weights.
        options: arguments of the factory. Where the weights don't fit and there are none, a class
            that has ``from_state_dict`` finds its widths in them, as CompressAI's models do; nor
            need such a class have widths by default.

    Raises:
        ConfigError: there is no such codec.
        CheckpointError: the weights don't fit.
    """
    codec: nn.Module | None = None
    try:
        codec = build(name, options)
        return load_weights(codec, checkpoint)
    except (ConfigError, CheckpointError):
        made_by = own_factory(name) if codec is None and is_own(name) else type(codec)
        from_state = getattr(made_by, "from_state_dict", None)
        if options or from_state is None:
            raise
        names = () if codec is None else codec.state_dict().keys()
        found = _by_class(from_state, read_state(checkpoint, names))
        if found is None:
            raise
    if not isinstance(getattr(found, "name", None), str):
        found.name = name.rpartition(":")[2]  # type: ignore[assignment]  # no submodule
    return found.eval()


def _by_class(
    from_state: Callable[[dict[str, Tensor]], nn.Module], tensors: dict[str, Tensor]
) -> nn.Module | None:
    """Return what a class makes of a state dict, with CompressAI's old names too, or None."""
    from compressai.zoo.pretrained import load_pretrained

    for state in (tensors, load_pretrained(dict(tensors))):
        with suppress(Exception):  # whatever the class makes of tensors that are not its own
            return from_state(state)
    return None

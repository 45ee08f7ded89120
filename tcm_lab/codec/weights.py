"""Weights of codecs that were not assembled here: a user's own, and CompressAI's models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tcm_lab.codec.adapter import CodecAdapter, unwrapped
from tcm_lab.codec.checkpoint import read_state, save_checkpoint
from tcm_lab.codec.model import Codec
from tcm_lab.codec.names import is_own
from tcm_lab.codec.state_dicts import (
    CheckpointError,
    fill,
    refuse_other_state,
    write_tensors,
)
from tcm_lab.codec.zoo import build, own_factory
from tcm_lab.errors import ConfigError

_FORMAT = "tcm_lab.weights/1"


def load_weights(codec: nn.Module, source: str | Path | Mapping[str, Any]) -> nn.Module:
    """Load the weights of a codec not assembled here, and return it in evaluation mode.

    Args:
        codec: the codec, changed in place; entropy tables that it has are rebuilt.
        source: a torch or safetensors file, or a state dict. Nesting and name prefixes from
            training loops, ``torch.compile`` and data parallelism are removed.

    Raises:
        CheckpointError: the file cannot be read, or its tensors are not the codec's.
    """
    origin = "the state dict" if isinstance(source, Mapping) else str(source)
    tensors = read_state(source, codec.state_dict().keys())
    fill(codec, tensors, origin=origin, name=type(codec).__name__)
    CodecAdapter(codec).renew_tables()
    return codec.eval()


def save_weights(codec: nn.Module, path: Path, extra: Mapping[str, Any]) -> None:
    """Write a codec's tensors and ``extra``; for a codec assembled here, a checkpoint.

    Args:
        codec: the codec, which ``torch.compile`` or data parallelism may wrap; the configuration of
            a foreign one is the user's code.
        path: the file, to be read by ``load_checkpoint``, or by ``load_weights`` for a foreign
            codec.
        extra: JSON values for ``read_extra``.

    Raises:
        LabError: the state of a module holds something other than tensors, or the file cannot be
            written. An existing file is untouched.
    """
    codec = unwrapped(codec)
    if isinstance(codec, Codec):
        save_checkpoint(codec, path, extra)
        return
    refuse_other_state(codec)
    write_tensors(path, codec.state_dict(), _FORMAT, extra)


def load_foreign(
    name: str, checkpoint: str | Path, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build a codec by name and load its weights.

    Args:
        name: ``my_codec.py:factory``, ``my_package.module:factory`` or ``compressai/<name>``.
        checkpoint: file of its weights.
        options: arguments of the factory. If there are none and the default widths do not fit or do
            not exist, a class with ``from_state_dict``, such as CompressAI's models, infers its
            widths from the weights.

    Raises:
        ConfigError: there is no such codec.
        CheckpointError: the weights do not fit.
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
        loaded = _by_class(from_state, read_state(checkpoint, names))
        if loaded is None:
            raise
    if not isinstance(getattr(loaded, "name", None), str):
        loaded.name = name.rpartition(":")[2]  # type: ignore[assignment]  # not a submodule
    return loaded.eval()


def _by_class(
    from_state: Callable[[dict[str, Tensor]], nn.Module], tensors: dict[str, Tensor]
) -> nn.Module | None:
    """Build a codec by its class from a state dict, also with CompressAI's old names, or None."""
    from compressai.zoo.pretrained import load_pretrained

    for state in (tensors, load_pretrained(dict(tensors))):
        with suppress(Exception):  # a class may raise anything for tensors not its own
            return from_state(state)
    return None

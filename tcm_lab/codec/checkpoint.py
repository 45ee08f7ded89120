"""Weights in files: ours, which rebuild their codec without guessing, and the published layout.

Nothing is ever unpickled: ours are safetensors, and torch's own files are read as weights only.
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tcm_lab import __version__
from tcm_lab._utils.files import write_atomically
from tcm_lab.codec.config import VariantConfig
from tcm_lab.codec.model import DERIVED, Codec
from tcm_lab.codec.published import infer_config, is_published, published_name, strip_wrapping
from tcm_lab.errors import ConfigError, LabError

_FORMAT = "tcm_lab.codec/1"
#: Entries that are the same in every codec of one configuration; old files lack some, and half
#: precision would make nought of a few.
_CONSTANTS = ("pedestal", "bound", "target")


class CheckpointError(LabError):
    """A file of weights that cannot be loaded; the message says exactly what differs."""


def save_checkpoint(
    codec: Codec,
    path: str | Path,
    extra: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a codec's weights and whole configuration to a safetensors file, atomically.

    Args:
        codec: what to save.
        path: the file.
        extra: JSON values to keep beside the configuration, such as how it was trained.
        dtype: of the weights in the file, such as ``torch.float16`` for half its size. They are
            loaded as float32 again, rounded: a codec of its own, which decodes no other's files.

    Raises:
        LabError: the file cannot be written; an older one is untouched.
    """
    from safetensors.torch import save

    metadata = {
        "format": _FORMAT,
        "tcm_lab": __version__,
        "config": codec.config.model_dump_json(),
        "extra": json.dumps(dict(extra or {})),
    }
    tensors = {
        name: value.to("cpu", dtype if value.is_floating_point() else None).contiguous()
        for name, value in _weights(codec).items()
    }
    write_atomically(Path(path), save(tensors, metadata))


def read_extra(path: str | Path) -> dict[str, Any]:
    """Return what ``save_checkpoint`` kept beside the configuration; nothing of other files."""
    try:
        _, metadata = _read_safetensors(Path(path))
    except CheckpointError:
        return {}
    extra: dict[str, Any] = json.loads(metadata.get("extra", "{}"))
    return extra


def save_published(codec: Codec, path: str | Path) -> None:
    """Write a codec's weights in the published layout, for the authors' code.

    Raises:
        LabError: the file cannot be written.
    """
    import io

    buffer = io.BytesIO()
    torch.save({"state_dict": to_published(codec)}, buffer)
    write_atomically(Path(path), buffer.getvalue())


def to_published(codec: Codec) -> dict[str, Tensor]:
    """Return a codec's state dict by the published names; derived entries are empty there."""
    return {
        published_name(name, codec.config): (
            value.new_zeros(0) if name.endswith(DERIVED) else value
        )
        for name, value in codec.state_dict().items()
    }


def load_checkpoint(source: str | Path | Mapping[str, Any]) -> Codec:
    """Build the codec that a file or a state dict holds, in evaluation mode on the CPU.

    Args:
        source: a safetensors file of ours; a torch file in the published layout, with or without
            ``state_dict`` around and ``module.`` before the names, with old or new entropy
            bottleneck names; or such a state dict itself. Recognised by content.

    Raises:
        CheckpointError: it is none of these, or its tensors do not make that codec.
    """
    if isinstance(source, Mapping):
        return _from_state(source, "the state dict")
    path = Path(source)
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if head[8:9] == b"{":
        tensors, metadata = _read_safetensors(path)
        if metadata.get("format") == _FORMAT:
            return _from_ours(tensors, metadata, str(path))
        return _from_state(tensors, str(path))
    return _from_state(_read_torch(path), str(path))


def _weights(codec: Codec) -> dict[str, Tensor]:
    state: dict[str, Tensor] = codec.state_dict()
    return {name: v for name, v in state.items() if not name.endswith((*DERIVED, *_CONSTANTS))}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from None


def _read_torch(path: Path) -> Mapping[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual pickle, which is refused or read
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: holds Python objects beside tensors, which are never executed here; "
            "save its state dict alone (torch.save(model.state_dict(), …))"
        ) from None
    except (RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        reason = (str(error) or "it is empty").splitlines()[0]
        raise CheckpointError(
            f"{path}: neither a safetensors nor a torch file ({reason})"
        ) from None
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: holds {type(state).__name__}, not named tensors")
    return state


def _from_ours(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], origin: str) -> Codec:
    try:
        config = VariantConfig.parse(json.loads(metadata["config"]))
    except (KeyError, json.JSONDecodeError, ConfigError) as error:
        raise CheckpointError(f"{origin}: its configuration cannot be read: {error}") from None
    return _fill(config, {name: (name, value) for name, value in tensors.items()}, origin)


def _from_state(state: Mapping[str, Any], origin: str) -> Codec:
    tensors = {
        name: value for name, value in strip_wrapping(state).items() if isinstance(value, Tensor)
    }
    # Newer CompressAI writes the entropy bottleneck's lists as we do.
    if not is_published(tensors):
        raise CheckpointError(
            f"{origin}: neither a checkpoint of tcm_lab (safetensors with its configuration) nor "
            "of the published TCM layout (g_a.0.conv1.weight, cc_mean_transforms.0.0.weight …)"
        )
    try:
        config = infer_config(tensors)
    except LabError as error:
        raise CheckpointError(f"{origin}: {error}") from None
    with torch.device("cpu"):
        names = {published_name(name, config): name for name in Codec(config).state_dict()}
    ours = {}
    for theirs, value in tensors.items():
        if not theirs.endswith(DERIVED):
            ours[names.get(theirs, theirs)] = (theirs, value)
    return _fill(config, ours, origin)


def _fill(config: VariantConfig, given: Mapping[str, tuple[str, Tensor]], origin: str) -> Codec:
    """Build ``config`` and load tensors by our names; each comes with its name in the file."""
    codec = Codec(config)
    wanted = _weights(codec)
    given = {ours: entry for ours, entry in given.items() if not ours.endswith(_CONSTANTS)}
    missing = [n for n in wanted if n not in given]
    unknown = [theirs for ours, (theirs, _) in given.items() if ours not in wanted]
    shaped = [
        f"{theirs} is {tuple(value.shape)}, not {tuple(wanted[ours].shape)}"
        for ours, (theirs, value) in given.items()
        if ours in wanted and value.shape != wanted[ours].shape
    ]
    if missing or unknown or shaped:
        raise CheckpointError(
            f"{origin}: does not fit {config.name}: "
            + "; ".join(
                f"{len(items)} {what} ({', '.join(items[:3])}{', …' if len(items) > 3 else ''})"
                for what, items in (
                    ("missing", [_their_name(n, config, given) for n in missing]),
                    ("unknown", unknown),
                    ("of another shape", shaped),
                )
                if items
            )
        )
    codec.load_state_dict({ours: value for ours, (_, value) in given.items()}, strict=False)
    codec.eval()
    return codec


def _their_name(name: str, config: VariantConfig, given: Mapping[str, tuple[str, Tensor]]) -> str:
    """Return a missing entry's name as the file would have it."""
    renamed = any(ours != theirs for ours, (theirs, _) in given.items())
    return published_name(name, config) if renamed else name

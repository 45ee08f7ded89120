"""Weights in files: our checkpoints, which hold the configuration, and other projects' layouts.

Nothing is ever unpickled: ours are safetensors, and torch files are read with ``weights_only``.
"""

from __future__ import annotations

import io
import json
import pickle
import warnings
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tcm_lab._compat.onednn import StridedPointwise
from tcm_lab._utils.files import check_suffix, write_atomically
from tcm_lab._utils.plugins import imported_layers
from tcm_lab._utils.trees import leaves
from tcm_lab.blocks import NoFormula
from tcm_lab.codec.adapter import unwrapped
from tcm_lab.codec.config import VariantConfig
from tcm_lab.codec.cost import part_costs
from tcm_lab.codec.layouts import LAYOUTS, Layout
from tcm_lab.codec.model import Codec
from tcm_lab.codec.names import about_code, checkpoint_file, preset_names, trained_names
from tcm_lab.codec.state_dicts import (
    CheckpointError,
    fill,
    find_weights,
    own_tensors,
    plain_name,
    refuse_other_state,
    table_names,
    weights_of,
    write_tensors,
)
from tcm_lab.codec.zoo import build
from tcm_lab.errors import LabError, lookup, one_of

_FORMAT = "tcm_lab.codec/1"
#: A configuration may claim this many weights (half a gigabyte), whatever the file holds.
_MANY_WEIGHTS = 2**27
#: Classes that training gives layers in place of others with the same weights and results.
_SWAPPED = (StridedPointwise, nn.SyncBatchNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_PICKLED = (".pth", ".pt", ".tar", ".bin", ".ckpt", ".pkl")
#: First bytes of files that are downloaded by mistake instead of a checkpoint.
_NOT_WEIGHTS = {
    b"version https://git-lfs": "a Git LFS pointer instead of the file; run git lfs pull",
    b"<!doctype": "a web page instead of the file; use the link to the file itself",
    b"<html": "a web page instead of the file; use the link to the file itself",
}

JsonValue = TypeVar("JsonValue", dict[str, Any], list[Any])


def save_checkpoint(
    codec: Codec,
    path: str | Path,
    extra: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a codec's weights and whole configuration to a safetensors file, atomically.

    Args:
        codec: the codec.
        path: the file.
        extra: JSON values to store with the configuration, such as how the codec was trained.
        dtype: type of the stored weights, such as ``torch.float16`` to halve the file. They are
            loaded as float32 again, but rounded: a different codec, which cannot decode files of
            the original.

    Raises:
        LabError: the codec was not assembled here or was altered since, the state of a layer holds
            something other than tensors, ``dtype`` is no floating-point type, or the file cannot be
            written. An existing file is untouched.
    """
    codec = assembled(codec, "save its state_dict() by torch.save")
    refuse_altered(codec)
    refuse_other_state(codec)
    if dtype is not None and not dtype.is_floating_point:
        raise LabError(f"dtype = {dtype}: must be a floating-point type, such as torch.float16")
    check_suffix(Path(path), [".safetensors"], "a safetensors file")
    write_tensors(
        Path(path),
        own_tensors(weights_of(codec)),
        _FORMAT,
        extra or {},
        dtype,
        config=codec.config.model_dump_json(),
        imports=json.dumps(imported_layers()),
    )


def read_extra(path: str | Path) -> dict[str, Any]:
    """Return the ``extra`` of ``save_checkpoint``; an empty dict for other files."""
    try:
        return _metadata_field(_read_safetensors(checkpoint_file(path))[1], "extra", {})
    except CheckpointError:
        return {}


def export_checkpoint(codec: Codec, path: str | Path, layout: str = "lic_tcm") -> None:
    """Write a codec's weights as a torch file in another project's layout.

    Raises:
        LabError: as `export_state`, or the file cannot be written.
    """
    check_suffix(Path(path), _PICKLED, "torch's format")
    buffer = io.BytesIO()
    torch.save({"state_dict": export_state(codec, layout)}, buffer)
    write_atomically(Path(path), buffer.getvalue())


def export_state(codec: Codec, layout: str = "lic_tcm") -> dict[str, Tensor]:
    """Return a codec's state dict in another project's layout; derived entries are empty.

    ``lic_tcm`` is the layout of the TCM authors' code. The architecture is inferred back from the
    result and compared: a layout that cannot express it would turn the weights into another codec.
    Only the entropy coder's scale table may differ, since no layout stores it.

    Raises:
        LabError: there is no such layout, it cannot hold the codec, or the codec was altered after
            it was built; the message says why.
    """
    codec = assembled(codec, "save its state_dict() by torch.save")
    chosen, config = lookup(LAYOUTS, layout, "layout"), codec.config
    refuse_altered(codec)
    tables = table_names(codec)
    own = own_tensors(
        {n: v.new_zeros(0) if n in tables else v for n, v in codec.state_dict().items()}
    )
    state = {chosen.entry_name(name, config): value for name, value in own.items()}
    state |= chosen.extra(config)
    refusal = f"{config.name} cannot be written in the layout {layout}"
    if not chosen.recognises(state):
        raise LabError(f"{refusal}: its architecture is not of that family")
    try:
        inferred = chosen.infer_config(state)
    except LabError as error:
        raise LabError(f"{refusal}: its architecture is not of that family ({error})") from None
    table = {"entropy_model.scale_table": config.entropy_model.scale_table}
    read = inferred.override(table)
    if read.fingerprint != config.fingerprint:
        raise LabError(f"{refusal}: read back, {_difference(config, read)}")
    return state


def assembled(codec: nn.Module, otherwise: str) -> Codec:
    """Return the codec inside ``torch.compile``, data parallelism or weight averaging.

    Raises:
        LabError: it was not assembled here; the message ends with what to do ``otherwise``.
    """
    inner = unwrapped(codec)
    if isinstance(inner, Codec):
        return inner
    inside = [name for name, module in inner.named_modules() if isinstance(module, Codec)]
    raise LabError(
        f"{type(inner).__name__} was not assembled by tcm_lab, so a file cannot describe it; "
        + (f"pass its {one_of(inside)}" if inside else otherwise)
    )


def refuse_altered(codec: Codec) -> None:
    """Refuse a codec whose tensors or layers are no longer those of its configuration.

    Raises:
        LabError: the message names the first that differs.
    """
    planned = build(codec.config, device="meta")
    for parts in (_tensors, _layers):
        own, expected = (set(parts(each).items()) for each in (codec, planned))
        if own != expected:
            name, what = min(own ^ expected)
            raise LabError(
                f"{codec.config.name} was altered after it was built: {name} ({what}) is "
                f"{'not in its configuration' if (name, what) in own else 'missing'}. Describe "
                "the change in the configuration, with a registered layer of your own if necessary."
            )


def _tensors(codec: Codec) -> dict[str, str]:
    """Return the shape of each tensor that a file stores."""
    return {
        name: "x".join(map(str, value.shape)) or "one number"
        for name, value in own_tensors(weights_of(codec)).items()
    }


def _layers(codec: Codec) -> dict[str, str]:
    """Return the class of each module by its path, of a wrapped one that of the module inside."""
    return {
        plain_name(f"{path}.").rstrip("."): next(
            f"{kind.__module__}.{kind.__qualname__}"
            for kind in type(module).__mro__
            if kind not in _SWAPPED and not kind.__module__.startswith("torch.distributed.")
        )
        for path, module in codec.named_modules(remove_duplicate=False)
    }


def _difference(config: VariantConfig, read: VariantConfig) -> str:
    """Describe the first field in which a configuration that was read back differs."""
    ours, theirs = (
        dict(leaves(each.model_dump(mode="json", exclude={"name"}))) for each in (config, read)
    )
    path = next(path for path in {**ours, **theirs} if ours.get(path) != theirs.get(path))
    return f"{path} would be {theirs.get(path)!r} instead of {ours.get(path)!r}"


def load_checkpoint(source: str | Path | Mapping[str, Any]) -> Codec:
    """Build the codec stored in a file or a state dict, in evaluation mode on the CPU.

    Args:
        source: the name of a trained codec of this package, such as ``tcm-nano``; one of our
            safetensors files; a torch file in the layout of the authors of TCM, AuxT, DCAE, HPCM or
            MLIC++, with old or new entropy bottleneck names; or such a state dict. The layout is
            recognised by content. Nesting, name prefixes and extra entries from training loops,
            ``torch.compile``, data parallelism and thop are removed.

    Raises:
        CheckpointError: the source is none of these, or its tensors do not fit the codec.
    """
    tree, metadata, origin = _read(source)
    if metadata.get("format") == _FORMAT:
        return _from_ours(tree, metadata, origin)
    return _from_state(tree, origin)


def read_state(source: str | Path | Mapping[str, Any], names: Collection[str]) -> dict[str, Tensor]:
    """Return the tensors of the model with these ``names`` from a file or a state dict.

    Nesting and extra entries from training loops are removed. If no model has most of the names,
    all tensors are returned.

    Raises:
        CheckpointError: the file cannot be read, or several models in it have the names.
    """
    own = set(names)
    tree, _, origin = _read(source)
    return find_weights(tree, origin, lambda tensors: 2 * len(own & tensors.keys()) > len(own))


def _read(source: object) -> tuple[Mapping[str, Any], Mapping[str, str], str]:
    """Return the content of a file or state dict, its metadata, and its name for messages."""
    if isinstance(source, Mapping):
        return source, {}, "the state dict"
    if not isinstance(source, str | Path):
        raise CheckpointError(f"{type(source).__name__} is neither a path nor a state dict")
    path = checkpoint_file(source)
    if _head(path)[8:9] == b"{":
        tensors, metadata = _read_safetensors(path)
        return tensors, metadata, str(path)
    return _read_torch(path), {}, str(path)


def _head(path: Path) -> bytes:
    """Return a file's first bytes, which identify its format.

    Raises:
        CheckpointError: the file cannot be read, or is not a checkpoint.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        hint = ""
        if not path.suffix and path.parent == Path():  # perhaps a name was meant
            hint = f". Trained codecs of this package: {one_of(trained_names())}"
        if str(path) in preset_names():
            raise CheckpointError(f"{path}: this preset has no trained weights{hint}") from None
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}){hint}") from None
    if path.suffix == ".py":
        raise CheckpointError(about_code(path))
    for start, what in _NOT_WEIGHTS.items():
        if head.lstrip().lower().startswith(start):
            raise CheckpointError(f"{path}: {what}")
    return head


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a complete safetensors file ({error})") from None


def _read_torch(path: Path) -> Mapping[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unusual pickles are read or refused below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: holds Python objects as well as tensors, and these are never unpickled; "
            "save only its state dict (torch.save(model.state_dict(), …))"
        ) from None
    except Exception as error:  # torch also raises AttributeError for damaged files
        reason = (str(error) or "it is empty").splitlines()[0]
        raise CheckpointError(
            f"{path}: neither a safetensors nor a torch file (torch says: {reason}). Give a "
            "checkpoint such as the model.safetensors that training writes."
        ) from None
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: holds {type(state).__name__}, not named tensors")
    return state


def _from_ours(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], origin: str) -> Codec:
    try:
        config = VariantConfig.parse(json.loads(metadata["config"]))
    except (KeyError, ValueError, RecursionError) as error:
        imports = map(str, _metadata_field(metadata, "imports", []))
        missing = [source for source in imports if source not in imported_layers()]
        hint = f" It was saved with --import {' --import '.join(missing)}." if missing else ""
        raise CheckpointError(
            f"{origin}: its configuration cannot be read: {error}{hint}"
        ) from None
    _check_size(config, tensors, origin)
    codec = Codec(config)
    fill(codec, tensors, origin=origin, name=config.name)
    codec.eval()
    return codec


def _metadata_field(metadata: Mapping[str, str], field: str, empty: JsonValue) -> JsonValue:
    """Return a field of the metadata, or ``empty`` if it is missing or damaged."""
    try:
        value = json.loads(metadata.get(field, "null"))
    except (ValueError, RecursionError):
        return empty
    return value if isinstance(value, type(empty)) else empty


def _from_state(state: Mapping[str, Any], origin: str) -> Codec:
    tensors = find_weights(state, origin, lambda entries: _layout_of(entries) is not None)
    layout = _layout_of(tensors)
    if layout is None:
        raise CheckpointError(
            f"{origin}: neither a checkpoint of tcm_lab (safetensors with its configuration) nor "
            f"in a layout that can be read ({one_of(LAYOUTS)}). Weights alone need the codec that "
            f"they belong to: my_codec.py:factory --checkpoint {origin} on the command line, "
            "tcm_lab.codec.load_weights(codec, file) in Python"
        )
    try:
        config = layout.infer_config(tensors)
    except LabError as error:
        raise CheckpointError(f"{origin}: {error}") from None
    _check_size(config, tensors, origin)
    codec = Codec(config)
    # Newer CompressAI writes the entropy bottleneck's lists as we do.
    ours = {layout.entry_name(name, config): name for name in codec.state_dict()}
    extra = layout.extra(config)
    renamed = {ours.get(name, name): v for name, v in tensors.items() if name not in extra}

    def shown(name: str) -> str:
        return layout.entry_name(name, config)

    fill(codec, renamed, origin=origin, name=config.name, shown=shown)
    codec.eval()
    return codec


def _layout_of(tensors: Mapping[str, Tensor]) -> Layout | None:
    return next((known for known in LAYOUTS.values() if known.recognises(tensors)), None)


def _check_size(config: VariantConfig, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Refuse a file that claims far more weights than it holds, before allocating them.

    Raises:
        CheckpointError: the configuration needs too many.
    """
    with suppress(NoFormula):
        needed = sum(cost.total_parameters for cost in part_costs(config, (1, 1)).values())
        held = sum(value.numel() for value in tensors.values())
        if needed > max(2 * held, _MANY_WEIGHTS):
            raise CheckpointError(
                f"{origin}: holds {held:,} numbers, but {config.name} needs {needed:,}"
            )

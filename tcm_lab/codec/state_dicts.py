"""Find a model's weights in a checkpoint of any training loop, and write weights to files."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tcm_lab import __version__
from tcm_lab._utils.files import write_atomically
from tcm_lab.errors import LabError

logger = logging.getLogger(__name__)

Tensors = Mapping[str, Tensor]
#: Parts that wrappers insert into names: torch.compile, FSDP, activation checkpoints, Fabric.
_INSERTED = re.compile(
    r"(?:^|(?<=\.))_(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module|forward_module)\."
)
#: Names of the buffers that thop leaves in a model.
COUNTS = ("total_ops", "total_params")
_DEEPEST = 8
#: Coding tables of CompressAI's entropy models, which ``update()`` computes from the weights.
_INTEGER_TABLES = ("_quantized_cdf", "_offset", "_cdf_length")
TABLES = (*_INTEGER_TABLES, "scale_table")
#: Bounds of its layers, which are the same in every codec of one configuration.
CONSTANTS = ("pedestal", "bound", "scale_bound", "target")
_WITH_CONSTANTS = ("compressai.entropy_models", "compressai.ops")


class CheckpointError(LabError):
    """A file of weights that cannot be loaded; the message says exactly what differs."""


class _Model(NamedTuple):
    """One model in a checkpoint: its path, its tensors, and the names of other tensors."""

    path: str
    tensors: dict[str, Tensor]
    beside: tuple[str, ...] = ()


def find_weights(
    tree: Mapping[Any, Any], origin: str, fits: Callable[[Tensors], bool]
) -> dict[str, Tensor]:
    """Return the tensors of the only model in a checkpoint that ``fits``, by its own names.

    The model may lie in nested mappings, and below prefixes of the names. Tensors under other
    prefixes, such as the networks of a loss, are left out with a warning. If nothing fits, all
    tensors of the largest mapping are returned, so that the caller can report what is missing.

    Args:
        tree: the checkpoint.
        origin: name of the checkpoint in messages.
        fits: whether named tensors are the model's.

    Raises:
        CheckpointError: several fit.
    """
    models = list(_models(tree, fits, "", {}))
    if len(models) > 1:
        names = " and ".join(model.path for model in models)
        raise CheckpointError(f"{origin}: holds both {names}; save only one of them")
    if not models:
        groups = [own_tensors(mapping) for mapping in _mappings(tree, set())]
        return _without_common_prefix(max(groups, key=len, default={}))
    (model,) = models
    if model.beside:
        logger.warning(
            "%s: left out %d tensors that do not belong to %s (%s …)",
            *(origin, len(model.beside), model.path, model.beside[0]),
        )
    return model.tensors


def weights_of(codec: nn.Module) -> dict[str, Tensor]:
    """Return the entries of a codec's state that a file stores: all but tables and constants.

    Old files lack some constants, and half precision would round a few to zero.
    """
    derived = table_names(codec) | constant_names(codec)
    return {name: value for name, value in codec.state_dict().items() if name not in derived}


def fill(
    codec: nn.Module,
    tensors: Tensors,
    *,
    origin: str,
    name: str,
    shown: Callable[[str], str] = str,
) -> None:
    """Load the tensors of a file, if they are a codec's weights; its tables are left as they are.

    Args:
        codec: changed in place.
        tensors: by the codec's names; tables and constants among them are ignored.
        origin: name of the file in messages.
        name: name of the codec in messages.
        shown: maps a name of the codec to the file's, for messages.

    Raises:
        CheckpointError: the message counts and names what is missing, unknown, of another shape or
            no floating-point numbers.
    """
    expected, ignored = weights_of(codec), (*TABLES, *CONSTANTS)
    given = {n: v for n, v in tensors.items() if n in expected or own_name(n) not in ignored}
    reshaped = [n for n in expected if n in given and given[n].shape != expected[n].shape]
    faults = {
        "missing": [shown(n) for n in expected if n not in given],
        "unknown": [n for n in given if n not in expected],
        "of another shape": [
            f"{shown(n)} is {tuple(given[n].shape)}, not {tuple(expected[n].shape)}"
            for n in reshaped
        ],
        "not plain floating-point numbers": [
            f"{shown(n)} is {_kind(given[n])}"
            for n, value in expected.items()
            if n in given and not _holds_like(given[n], value)
        ],
    }
    found = [
        f"{len(names)} {fault} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for fault, names in faults.items()
        if names
    ]
    if found:
        raise CheckpointError(f"{origin}: does not fit {name}: {'; '.join(found)}")
    nn.Module.load_state_dict(codec, given, strict=False)  # CompressAI's own resizes tables


def _holds_like(given: Tensor, expected: Tensor) -> bool:
    """Return whether a tensor is stored plainly, and is floating-point where the codec's is."""
    plain = given.layout is torch.strided and not (given.is_meta or given.is_quantized)
    return plain and (given.is_floating_point() or not expected.is_floating_point())


def _kind(value: Tensor) -> str:
    """Return how a tensor is stored, in one word: its place, its layout or its type."""
    if value.is_meta:
        return "meta"
    kind = value.dtype if value.layout is torch.strided else value.layout
    return str(kind).removeprefix("torch.")


def table_names(codec: nn.Module) -> set[str]:
    """Return the names of a codec's coding tables in its state dict: buffers, not weights."""
    return _buffer_names(codec, TABLES, _has_tables)


def constant_names(codec: nn.Module) -> set[str]:
    """Return the names of the constants that CompressAI's layers keep in a codec's state dict."""
    return _buffer_names(codec, CONSTANTS, _has_constants)


def _buffer_names(
    codec: nn.Module, kept: Collection[str], by: Callable[[nn.Module], bool]
) -> set[str]:
    """Return the names of the buffers called as in ``kept``, of the modules that keep such."""
    return {
        _join(path, name)
        for path, module in codec.named_modules(remove_duplicate=False)
        if by(module)
        for name, _ in module.named_buffers(recurse=False, remove_duplicate=False)
        if name in kept
    }


def _has_tables(module: nn.Module) -> bool:
    """Return whether a module is an entropy model, CompressAI's or a copy, by its integer tables.

    A buffer of a user's layer may have the name of one of them.
    """
    tables = (getattr(module, name, None) for name in _INTEGER_TABLES)
    return all(isinstance(t, Tensor) and not t.is_floating_point() for t in tables)


def _has_constants(module: nn.Module) -> bool:
    origins = (kind.__module__ for kind in type(module).__mro__)
    return any(origin.startswith(_WITH_CONSTANTS) for origin in origins)


def tied_names(codec: nn.Module) -> set[str]:
    """Return the second and later names of tensors that occur several times (tied weights)."""
    kinds = (codec.named_parameters, codec.named_buffers)
    names, first_names = (
        {n for of in kinds for n, _ in of(remove_duplicate=d)} for d in (False, True)
    )
    return names - first_names


def own_name(name: str) -> str:
    """Return the name of an entry within its module."""
    return name.rpartition(".")[2]


def plain_name(name: str) -> str:
    """Return a name, or a module's path with a dot behind it, without what wrappers insert."""
    return _INSERTED.sub("", name)


def own_tensors(tree: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return the tensors of a mapping by the names that the model itself gives them."""
    return {
        plain_name(str(name)): value
        for name, value in tree.items()
        if isinstance(value, torch.Tensor) and own_name(str(name)) not in COUNTS
    }


def refuse_other_state(codec: nn.Module) -> None:
    """Refuse a codec whose state holds something other than tensors, which no file can hold.

    Raises:
        LabError: the message names the module and what would work.
    """
    for name, value in codec.state_dict().items():
        if not isinstance(value, Tensor):
            module, _, entry = name.rpartition(".")
            what = "get_extra_state() returns" if entry == "_extra_state" else f"{entry} is"
            raise LabError(
                f"{module or type(codec).__name__}: {what} {type(value).__name__}, but files of "
                "weights hold only tensors. Keep it in buffers (register_buffer), or let "
                "get_extra_state() return one tensor."
            )


def write_tensors(
    path: Path,
    tensors: Tensors,
    form: str,
    extra: Mapping[str, Any],
    dtype: torch.dtype | None = None,
    **more: str,
) -> None:
    """Write weights to a safetensors file, atomically.

    Args:
        path: the file.
        tensors: tensors by name. Those that layers share are written for each, and those that are
            spread over several processes are gathered.
        form: name of the file's format.
        extra: JSON values to store with the weights.
        dtype: type of floating-point tensors in the file; None: their own.
        more: further metadata.
    """
    from safetensors.torch import save

    metadata = {"format": form, "tcm_lab": __version__, **more, "extra": json.dumps(dict(extra))}
    plain = {}
    for name, value in tensors.items():
        full = value.full_tensor() if hasattr(value, "full_tensor") else value
        copied = full.detach().to("cpu", dtype if full.is_floating_point() else None)
        plain[name] = copied.clone(memory_format=torch.contiguous_format)
    write_atomically(path, save(plain, metadata))


def _models(
    tree: Mapping[Any, Any],
    fits: Callable[[Tensors], bool],
    path: str,
    seen: dict[int, Mapping[Any, Any]],
) -> Iterator[_Model]:
    tensors = own_tensors(tree)
    if tensors and fits(tensors):
        yield _Model(path, tensors)
        return
    if path.count(".") >= _DEEPEST or id(tree) in seen:
        return
    seen[id(tree)] = tree  # kept, so that no later group gets its id
    below: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        first, _, rest = name.partition(".")
        if rest:
            below.setdefault(first, {})[rest] = value
    for first, group in below.items():
        for model in _models(group, fits, _join(path, first), seen):
            others = [
                other
                for other, value in tensors.items()
                if not other.startswith(f"{first}.") and _may_be_weight(value)
            ]
            yield model._replace(beside=(*model.beside, *others))
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _models(value, fits, _join(path, str(key)), seen)


def _may_be_weight(value: Tensor) -> bool:
    """Return whether a tensor may be a weight, rather than a counter or a loss."""
    return value.ndim > 0 and value.is_floating_point()


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _mappings(tree: Mapping[Any, Any], seen: set[int]) -> Iterator[Mapping[Any, Any]]:
    """Yield a mapping and all mappings in it, each once."""
    if id(tree) not in seen:
        seen.add(id(tree))
        yield tree
        for value in tree.values():
            if isinstance(value, Mapping):
                yield from _mappings(value, seen)


def _without_common_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while len({name.partition(".")[0] for name in tensors}) == 1 and "." in min(tensors):
        tensors = {name.partition(".")[2]: value for name, value in tensors.items()}
    return tensors

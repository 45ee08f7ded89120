"""The complete state of a training, in memory and in one file without pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tcm_lab._utils.files import write_atomically
from tcm_lab._utils.trees import leaves
from tcm_lab.codec import CodecAdapter, VariantConfig
from tcm_lab.codec.state_dicts import fill, weights_of
from tcm_lab.errors import FileError, LabError
from tcm_lab.training.recipe import Recipe

FILE_NAME = "training.safetensors"
PHASE = "linear-phase"
"""Folder of a linear phase's state, inside that of its training."""
_FORMAT = "tcm-lab-training-1"
_REFROZEN = (
    "{}: began with a different set of frozen parameters. Resume with the same, or choose another "
    "folder."
)


@dataclass(frozen=True)
class Snapshot:
    """Tensors by name, and plain facts about them."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write both into one safetensors file, completely or not at all.

        Raises:
            FileError: the file can't be written; an existing one stays as it was.
        """
        from safetensors.torch import save

        metadata = {"format": _FORMAT, "facts": json.dumps(self.facts)}
        write_atomically(path, save(self.tensors, metadata=metadata))

    @classmethod
    def load(cls, path: Path) -> Snapshot:
        """Read what ``save`` wrote.

        Raises:
            FileError: the file is not such a state, or is damaged.
        """
        with _opened(path) as (file, facts):
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no iterator
        return cls(tensors, facts)

    def refuse_other(self, codec: nn.Module, recipe: Recipe, data: str, path: Path) -> None:
        """Refuse to resume with another codec, another recipe or other data, by its fingerprint.

        Raises:
            LabError: something differs; the message names it.
        """
        theirs, ours = Recipe.parse(self.facts["recipe"], f"{path}: ").identity(), recipe.identity()
        names = dict.fromkeys((*ours, *theirs))
        differing = [
            f"{name} ({theirs.get(name)} there, {ours.get(name)} here)"
            for name in names
            if theirs.get(name) != ours.get(name)
        ]
        if self.facts["data"] != data:
            differing.append("data")
        if "model" in self.facts:  # missing in states of earlier versions
            differing += _differences(self.facts["model"], described(codec))
        if "trained" in self.facts:  # missing, too
            differing += _refrozen(codec, self.facts["trained"])
        if differing:
            raise LabError(
                f"{path}: began with a different {', '.join(differing)}. "
                "Resume with the same, or choose another folder."
            )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open the file of a state for the block, and read its facts.

    Raises:
        FileError: the file is not such a state, or is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise FileError(f"{path}: not the state of a training. Name its folder.")
            yield file, json.loads(metadata["facts"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:  # the last two: its facts
        raise FileError(
            f"{path}: cannot be read ({error}). Delete it to start this training anew."
        ) from error


def find_state(directory: Path) -> Path | None:
    """Return the file from which the training in a folder would be resumed, if any."""
    places = (directory / FILE_NAME, directory / PHASE / FILE_NAME)
    return next((path for path in places if path.exists()), None)


def as_begun(recipe: Recipe, directory: Path) -> Recipe:
    """Return a recipe for resuming: without a start if the training began from given weights.

    Raises:
        FileError: the state in the folder can't be read.
    """
    path = directory / FILE_NAME
    if not path.exists():
        return recipe
    with _opened(path) as (_, facts):
        given = facts["recipe"].get("start") == "none"
    return recipe.without_start() if given else recipe


def described(codec: nn.Module) -> Any:
    """Return a codec's configuration as plain values, without its name."""
    config = CodecAdapter(codec).description
    return {k: v for k, v in config.items() if k != "name"} if isinstance(config, dict) else config


def _differences(theirs: Any, ours: Any) -> list[str]:
    """Describe up to three differences of a state's codec from the one to be trained."""
    if not (isinstance(theirs, dict) and isinstance(ours, dict)):
        return [] if theirs == ours else [f"model ({theirs} there, {ours} here)"]
    # Parsed again, since later versions may have further fields.
    complete = VariantConfig.parse({**theirs, "name": "resumed"}).model_dump(mode="json")
    there, here = dict(leaves(complete)), dict(leaves(ours))
    paths = [path for path in {**here, **there} if path != "name"]
    differing = [path for path in paths if there.get(path) != here.get(path)]
    return [f"{p} ({there.get(p)} there, {here.get(p)} here)" for p in differing[:3]]


def take(
    modules: dict[str, nn.Module],
    optimizers: dict[str, Optimizer],
    averages: dict[str, Tensor],
    facts: dict[str, Any],
) -> Snapshot:
    """Copy the weights, the optimisers' moments and the averages to the CPU."""
    tensors = {
        f"{title}/{name}": value
        for title, module in modules.items()
        for name, value in weights_of(module).items()
    }
    tensors |= {f"ema/{name}": value for name, value in averages.items()}
    names = _names(modules)
    for title, optimizer in optimizers.items():
        for parameter, moments in optimizer.state.items():
            below = f"{title}/{names[parameter]}"
            tensors |= {f"{below}/{moment}": value for moment, value in moments.items()}
    copies = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    return Snapshot(copies, facts)


@torch.no_grad()
def put(
    snapshot: Snapshot,
    modules: dict[str, nn.Module],
    optimizers: dict[str, Optimizer],
    averages: dict[str, Tensor],
    origin: str,
) -> None:
    """Set weights, optimisers and averages to what ``take`` copied; messages name the ``origin``.

    Raises:
        LabError: they are not those of these modules, or other parameters were trained.
    """
    for title, module in modules.items():
        name = CodecAdapter(module).name
        fill(module, _below(snapshot, title), origin=origin, name=name)
    kept = _below(snapshot, "ema")
    if kept.keys() != averages.keys():
        raise LabError(_REFROZEN.format(origin))
    for name, value in kept.items():
        averages[name].copy_(value)
    names = _names(modules)
    for title, optimizer in optimizers.items():
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        indices = {names[parameter]: index for index, parameter in enumerate(parameters)}
        indices |= {str(index): index for index in range(len(parameters))}  # of earlier versions
        state: dict[int, dict[str, Tensor]] = {}
        for path, value in _below(snapshot, title).items():
            name, _, moment = path.rpartition("/")
            index = indices.get(name)
            if index is None or (value.ndim and value.shape != parameters[index].shape):
                raise LabError(_REFROZEN.format(origin))
            # Moments share their parameter's memory format, or the fused optimiser is slow.
            like = parameters[index] if value.ndim else value
            state.setdefault(index, {})[moment] = torch.empty_like(like).copy_(value)
        optimizer.load_state_dict(
            {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
        )


def _names(modules: dict[str, nn.Module]) -> dict[Tensor, str]:
    """Return the name of each parameter of the modules."""
    return {p: name for module in modules.values() for name, p in module.named_parameters()}


def trained_names(codec: nn.Module) -> list[str]:
    """Return the names of the parameters that are not frozen."""
    return [name for name, parameter in codec.named_parameters() if parameter.requires_grad]


def _refrozen(codec: nn.Module, trained: list[str]) -> list[str]:
    """Describe which of a codec's parameters are frozen now, or were when these were trained."""
    every = [name for name, _ in codec.named_parameters()]
    here, there = set(trained_names(codec)), set(trained)
    found = []
    for names, how in (
        (here - there, "frozen there, trained here"),
        (there - here, "trained there, frozen here"),
    ):
        parts = (_part(name, every, names) for name in every if name in names)
        listed = [*dict.fromkeys(parts)]
        if listed:
            more = ", …" if len(listed) > 3 else ""
            found.append(f"{', '.join(listed[:3])}{more} {how}")
    return [f"set of frozen parameters ({'; '.join(found)})"] if found else []


def _part(name: str, every: list[str], names: set[str]) -> str:
    """Return the part that a parameter belongs to, if ``names`` has all of it, or its name."""
    part = name.partition(".")[0]
    whole = {other for other in every if other.partition(".")[0] == part}
    return part if whole <= names else name


def _below(snapshot: Snapshot, title: str) -> dict[str, Tensor]:
    prefix = f"{title}/"
    return {n[len(prefix) :]: v for n, v in snapshot.tensors.items() if n.startswith(prefix)}

"""Models on the command line: what they name, with their weights and overrides."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

import tcm_lab
from tcm_lab._utils.files import as_text, is_file
from tcm_lab._utils.yaml import parse_value
from tcm_lab.cli.options import AT_LEAST_ONE
from tcm_lab.errors import LabError

Models = Annotated[
    tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL ...", **AT_LEAST_ONE)
]
Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
Overrides = Annotated[
    tuple[str, ...], tyro.conf.arg(name="set", metavar="PATH=VALUE ...", help_behavior_hint="")
]
Arguments = Annotated[
    tuple[str, ...], tyro.conf.arg(name="set", metavar="NAME=VALUE ...", help_behavior_hint="")
]
Weights = Annotated[
    tuple[Path, ...], tyro.conf.arg(name="checkpoint", metavar="FILE ...", help_behavior_hint="")
]


class Entry(NamedTuple):
    """One model on the command line, with the weights that were given for it.

    Attributes:
        model: preset, trained codec of the package, YAML file, checkpoint of ours, compressai/NAME
            or FILE.py:FACTORY.
        weights: weights of a model of the last two kinds, if any were given.
        arguments: arguments of such a model's factory, as ``name=value``.
    """

    model: str
    weights: Path | None = None
    arguments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name in files, folders and figures: that of the preset or of the file of weights.

        Since ``train`` calls every file model.safetensors, such a file has its folder's name.
        """
        if tcm_lab.codec.is_foreign(self.model):
            weights = [] if self.weights is None else [Entry(str(self.weights)).name]
            return "-".join([self.model.rpartition(":")[2].replace("/", "-"), *weights])
        path = Path(self.model)
        return as_text(path.resolve().parent.name if path.stem == "model" else path.stem)

    def target(self, overrides: Sequence[str]) -> Any:
        """Return the model in a form for measurements that need no weights."""
        if self.weights is None and not _is_checkpoint(self.model):
            return changed(self.model, overrides)
        return self.codec(overrides)

    def codec(self, overrides: Sequence[str] = ()) -> Any:
        """Return the codec with its weights, which are random for presets without trained ones.

        Raises:
            LabError: an override would change a checkpoint, or the weights don't fit.
        """
        overrides = (*self.arguments, *overrides)
        if self.weights is not None:
            return tcm_lab.codec.load_foreign(self.model, self.weights, _changes(overrides))
        trained = not overrides and self.model in tcm_lab.codec.trained_names()
        if not trained and not _is_checkpoint(self.model):
            return built(self.model, overrides)
        codec = tcm_lab.load_checkpoint(self.model)  # raises if it is not a checkpoint
        if overrides:
            raise LabError(f"--set: {self.model} is a checkpoint; its architecture is fixed.")
        return codec


def entries(models: Models, checkpoints: Weights, arguments: Arguments = ()) -> list[Entry]:
    """Return the models on the command line, each with its weights.

    Several checkpoints of a single foreign model make one entry each; with several models, each
    gets one checkpoint, in order. Arguments go to every foreign model, and to no other.

    Raises:
        LabError: the checkpoints or arguments belong to no model, or it is unclear to which.
    """
    foreign = [model for model in models if tcm_lab.codec.is_foreign(model)]
    if arguments and not foreign:
        raise LabError(
            f"--set {arguments[0]}: applies only to a codec of your own, such as "
            "my_codec.py:factory. Trained codecs cannot be changed."
        )
    if checkpoints and not foreign:
        raise LabError(
            "--checkpoint: applies only to a codec of your own, such as my_codec.py:factory, or to "
            "compressai/NAME. Give a checkpoint of ours as a MODEL."
        )
    if len(foreign) > 1 and checkpoints and len(checkpoints) != len(foreign):
        raise LabError(
            f"--checkpoint: {len(checkpoints)} files for {len(foreign)} models "
            f"({', '.join(foreign)}). Give one for each, in the same order."
        )
    left = iter(checkpoints)
    found: list[Entry] = []
    for model in models:
        if model not in foreign:
            found.append(Entry(model))
            continue
        files = [*left] if len(foreign) == 1 else [next(left, None)]
        found += [Entry(model, weights, arguments) for weights in files or [None]]
    return found


def loaded(
    found: Sequence[Entry],
    rates: Sequence[float | None] = (),
    load: Callable[[Entry], Any] = Entry.codec,
) -> Iterator[tuple[Entry, Any]]:
    """Yield entries with their codecs, one at a time, after checking all of them.

    Raises:
        LabError: a codec can't be loaded, or lacks a rate.
    """

    def checked(entry: Entry) -> Any:
        codec = load(entry)
        for rate in rates:
            tcm_lab.codec.CodecAdapter(codec).check_rate(rate)
        return codec

    for entry in found[1:]:  # the first one is checked first anyway
        checked(entry)
    for entry in found:
        yield entry, checked(entry)


def changed(model: str, overrides: Sequence[str]) -> Any:
    """Return the model, or its configuration with ``path=value`` fields and its name changed.

    Raises:
        LabError: an override is not ``path=value``, or the model has no such field.
    """
    if not overrides:
        return model
    if tcm_lab.codec.is_foreign(model):
        return built(model, overrides)
    config = tcm_lab.load_config(model)
    shown = [re.sub(r"[^A-Za-z0-9 ._/@=,+*?:{}[\]-]", "", override) for override in overrides]
    return config.override({**_changes(overrides), "name": " ".join([config.name, *shown])})


def built(model: str, overrides: Sequence[str], seed: int = 0) -> Any:
    """Return the codec with ``path=value`` fields changed, and with random weights.

    Raises:
        LabError: an override is not ``path=value``, or the model has no such field.
    """
    if tcm_lab.codec.is_foreign(model):
        return tcm_lab.build(model, _changes(overrides), seed=seed)
    return tcm_lab.build(changed(model, overrides), seed=seed)


def _changes(overrides: Sequence[str]) -> dict[str, Any]:
    """Read ``path=value`` fields."""
    changes = {}
    for override in overrides:
        path, equals, value = override.partition("=")
        if not equals or not path:
            raise LabError(f"--set {override}: write PATH=VALUE, such as 'g_*.split=0.25'.")
        changes[path] = parse_value(value, f"--set {override}")
    return changes


def _is_checkpoint(model: str) -> bool:
    """Return whether this is a checkpoint's path, and neither a model's name nor a YAML file."""
    path = Path(model)
    return path.suffix not in (".yaml", ".yml") and is_file(path)

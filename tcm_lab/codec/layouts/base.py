"""A layout of another project's checkpoints, and helpers for all layouts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from tcm_lab.codec.config import TransformConfig, VariantConfig
from tcm_lab.codec.zoo import load_config
from tcm_lab.errors import LabError

State = Mapping[str, Tensor]
#: Pairs of a pattern in our names and its replacement in the authors' names.
Renamings = Sequence[tuple[str, str]]

#: CompressAI's older names of a factorised prior's density network.
OLD_PRIOR: Renamings = (
    (r"^entropy_bottleneck\.matrices\.(\d)", r"entropy_bottleneck._matrix\1"),
    (r"^entropy_bottleneck\.biases\.(\d)", r"entropy_bottleneck._bias\1"),
    (r"^entropy_bottleneck\.factors\.(\d)", r"entropy_bottleneck._factor\1"),
)
_PLACE = re.compile(
    r"^([gh]_[as])(?:\.(mean|scale|shared))?\.stages\.(\d+)\.(?:resample|blocks\.(\d+))\.(.*)$"
)


@dataclass(frozen=True)
class Layout:
    """How another project names and shapes the tensors of a codec that we can build.

    Attributes:
        authors: name of the authors' codec, for messages.
        preset: preset of their published codec, from which the inference starts.
        recognises: whether a state dict, its prefixes stripped, has this layout.
        infer: changes the preset to the codec of a state dict, by names and shapes.
        entry_name: maps our name of a state-dict entry to the authors', for a configuration.
        extra: entries that only the authors have, the same in every checkpoint of a configuration.
    """

    authors: str
    preset: str
    recognises: Callable[[State], bool]
    infer: Callable[[State, VariantConfig], VariantConfig]
    entry_name: Callable[[str, VariantConfig], str]
    extra: Callable[[VariantConfig], State] = field(default=lambda _: {})

    def infer_config(self, state: State) -> VariantConfig:
        """Infer the architecture from the authors' state dict.

        Raises:
            LabError: tensors that determine it are missing, or no codec has their shapes.
        """
        try:
            return self.infer(state, load_config(self.preset))
        except LabError:
            raise
        except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
            reason = "its tensors have unexpected shapes"
            if isinstance(error, KeyError):
                reason = f"{error} is missing"
            raise LabError(
                f"the file looks like a checkpoint of the {self.authors} authors, but its "
                f"architecture cannot be inferred from it: {reason}"
            ) from None


class Place(NamedTuple):
    """The place of one of our state-dict entries in a transform.

    Attributes:
        transform: g_a, g_s, h_a or h_s.
        output: for h_s, the output that the transform gives: mean, scale or shared.
        stage: number of the stage.
        block: number of the block in the stage; None: the resampler.
        entry: name within that block or resampler.
    """

    transform: str
    output: str | None
    stage: int
    block: int | None
    entry: str

    def stages(self, config: VariantConfig) -> TransformConfig:
        """Return the configuration of the transform."""
        stages: TransformConfig = getattr(config, self.transform)
        return stages

    def position(self, config: VariantConfig) -> int:
        """Return the index of the layer in the transform as one flat sequence."""
        return flat_index(self.stages(config), self.stage, self.block)


def place_of(name: str) -> Place | None:
    """Return the place of an entry of ours; None outside the transforms' blocks and resamplers."""
    match = _PLACE.match(name)
    if match is None:
        return None
    transform, output, stage, block, entry = match.groups()
    return Place(transform, output, int(stage), None if block is None else int(block), entry)


def flat_index(transform: TransformConfig, stage: int, block: int | None) -> int:
    """Return the index of a stage's block, or of its resampler, in one flat sequence of layers."""
    resamplers = [int(each.resample.type != "none") for each in transform.stages]
    before = sum(resamplers[i] + transform.stages[i].depth for i in range(stage))
    return before if block is None else before + resamplers[stage] + block


def rename(name: str, *renamings: tuple[str, str]) -> str:
    """Apply every renaming in order, each at most once."""
    for pattern, theirs in renamings:
        name = re.sub(pattern, theirs, name, count=1)
    return name


def count_children(state: State, prefix: str) -> int:
    """Return the number of children of the module ``prefix``."""
    start = f"{prefix}."
    return len({name[len(start) :].split(".")[0] for name in state if name.startswith(start)})

"""Starting from weights that were trained before, at another rate or by somebody else."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from tcm_lab.errors import LabError

logger = logging.getLogger(__name__)


def warm_start(codec: nn.Module, path: Path) -> tuple[str, ...]:
    """Copy every parameter of a checkpoint that has the name and shape of one of the codec's.

    Args:
        codec: changed in place.
        path: one of our checkpoints or a published LIC_TCM one.

    Returns:
        The names of the codec's parameters that kept their own values, such as the gains of a
        rate-conditioned codec that starts from a single-rate one.

    Raises:
        LabError: the checkpoint can't be read, or holds less than half of the codec's weights.
    """
    from tcm_lab.codec.checkpoint import load_checkpoint

    theirs = load_checkpoint(path).state_dict()
    own = dict(codec.named_parameters())
    fitting = {n: p for n, p in own.items() if n in theirs and theirs[n].shape == p.shape}
    taken = sum(p.numel() for p in fitting.values())
    whole = sum(p.numel() for p in own.values())
    if 2 * taken < whole:
        raise LabError(
            f"{path}: fits {taken:,} of the codec's {whole:,} weights only. "
            "Start from a checkpoint of the same architecture."
        )
    for name, parameter in fitting.items():
        parameter.data.copy_(theirs[name])
    kept = tuple(name for name in own if name not in fitting)
    if kept:
        logger.warning("%s: %d parameters start afresh (%s …)", path, len(kept), kept[0])
    return kept

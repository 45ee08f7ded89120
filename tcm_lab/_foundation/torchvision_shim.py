"""Keeps CompressAI importable where torchvision was built for another torch than the one here.

CompressAI imports torchvision, whose registry build cannot load its operators beside a CPU-only
torch and then fails on the first operator that it decorates. Declaring those operators' schemas is
enough: nothing in this project calls them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_fragments: list[torch.library.Library] = []


def _operators_load() -> bool:
    """Say whether torchvision's compiled operators can be loaded beside this torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    for compiled in Path(spec.origin).parent.glob("_C*.*"):
        try:
            torch.ops.load_library(compiled)
        except OSError:
            continue
        return True
    return False


def declare_missing_operators() -> None:
    """Declare torchvision's non-maximum suppression operators if torchvision itself cannot."""
    if _fragments or _operators_load():
        return
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            fragment = torch.library.Library("torchvision", "FRAGMENT")
            fragment.define(schema)
            _fragments.append(fragment)

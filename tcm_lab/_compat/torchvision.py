"""Lets torchvision be imported with a torch that its compiled extension was not built for.

PyPI's torchvision wheel is built for PyPI's torch; with a CPU-only torch of the same version its
extension cannot be loaded. torchvision (0.22 to 0.28) tolerates that except in one place: it
registers shape rules for two operators that only the extension declares, so that
``import torchvision`` ends with ``RuntimeError: operator torchvision::nms does not exist``
(https://github.com/pytorch/vision/issues/8985). CompressAI, timm and ptflops import torchvision.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@cache
def make_torchvision_importable() -> tuple[torch.library.Library, ...]:
    """Declare the operators of torchvision's extension where it cannot be loaded.

    They are declared but not implemented: calling one still raises, as it would without us.

    Returns:
        The declarations, which live as long as this tuple; empty if none are needed.
    """
    if _declared("nms") or _extension_loads():
        return ()
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        if not _declared(name):
            library.define(name + _SCHEMA)
    return (library,)


def import_compressai() -> Any:
    """Return CompressAI, imported on the first call: its import takes longer than torch's."""
    make_torchvision_importable()
    import compressai

    return compressai


def _declared(name: str) -> bool:
    return hasattr(torch.ops.torchvision, name)


def _extension_loads() -> bool:
    """Load the extension as torchvision itself does when it is imported."""
    spec = find_spec("torchvision")
    folders = (spec and spec.submodule_search_locations) or ()
    for path in (path for folder in folders for path in Path(folder).glob("_C*.*")):
        try:
            torch.ops.load_library(path)
        except (ImportError, OSError):
            return False
        return True
    return False

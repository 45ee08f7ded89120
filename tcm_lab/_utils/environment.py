"""The conditions under which something was measured, for records."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import distributions, version
from pathlib import Path

import torch

from tcm_lab._utils.models import Frozen

_PACKAGES = ("tcm-lab", "torch", "compressai", "numpy", "pillow")


class Environment(Frozen):
    """Device, threads and versions.

    Attributes:
        device: name of the processor that did the work.
        threads: threads that torch uses for one operator on the CPU.
        python: version of the interpreter.
        versions: installed version by distribution.
    """

    device: str
    threads: int
    python: str
    versions: dict[str, str]


def environment(device: torch.device | str = "cpu") -> Environment:
    """Describe the conditions under which this process works on ``device``."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return Environment(
        device=name,
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        versions=versions(*_PACKAGES),
    )


def versions(*packages: str) -> dict[str, str]:
    """Return the version of each package that is installed."""
    return {name: installed for name in packages if (installed := _version(name))}


@cache
def _version(name: str) -> str:
    """Return the version of a package, or "" if it is not installed."""
    return version(name) if any(distributions(name=name)) else ""


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

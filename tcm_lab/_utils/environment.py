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
        instructions: vector instructions that torch uses on the CPU, such as AVX512; "" on a GPU,
            and in records from before this was recorded.
    """

    device: str
    threads: int
    python: str
    versions: dict[str, str]
    instructions: str = ""


def environment(device: torch.device | str = "cpu") -> Environment:
    """Describe the conditions under which this process works on ``device``."""
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    return Environment(
        device=torch.cuda.get_device_name(device) if on_gpu else _processor(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        versions=versions(*_PACKAGES),
        instructions="" if on_gpu else torch.backends.cpu.get_cpu_capability(),
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
        name = processor_name(Path("/proc/cpuinfo").read_text("utf-8", "replace"))
    except OSError:
        name = ""
    return name or platform.processor() or platform.machine()


def processor_name(cpuinfo: str) -> str:
    """Return the name of the first processor in the text of Linux's ``/proc/cpuinfo``.

    A name without a model number, as virtual machines show, gets the family and model, since
    processors of different generations share it. "" if there is no name.
    """
    first = cpuinfo.partition("\n\n")[0]
    fields = [line.partition(":") for line in first.splitlines()]
    found = {key.strip(): value.strip() for key, _, value in fields}
    name = found.get("model name", "")
    if not name or any(character.isdigit() for character in name):
        return name
    return f"{name} (family {found.get('cpu family', '?')}, model {found.get('model', '?')})"

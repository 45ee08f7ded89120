"""What the notes below tables say of sizes, devices and versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized

from tcm_lab._utils.environment import Environment
from tcm_lab.errors import LabError, one_of

WITHOUT_HEADERS = (
    "Rates without file headers on either side, which weigh more the smaller the image."
)


def need(what: str, given: Sized) -> None:
    """Refuse an empty collection.

    Raises:
        LabError: nothing was given.
    """
    if not given:
        raise LabError(f"no {what} given")


def size_text(size: Sequence[int]) -> str:
    """Return ``HxW``."""
    return "x".join(map(str, size))


def device_text(environment: Environment) -> str:
    """Return the device and the number of threads."""
    threads = environment.threads
    return f"{environment.device}, {threads} {'thread' if threads == 1 else 'threads'}"


def versions_text(versions: Iterable[Mapping[str, str]]) -> str:
    """Return every package with its version, or all that there are, sorted by name."""
    found: dict[str, dict[str, None]] = {}
    for each in versions:
        for name, version in each.items():
            found.setdefault(name, {})[version] = None
    return ", ".join(f"{name} {one_of(sorted(found[name]))}" for name in sorted(found))


def environment_lines(environments: Iterable[Environment]) -> tuple[str, ...]:
    """Return one line for each of the environments that differ: device, threads and versions."""
    lines = {f"{device_text(e)}; {versions_text([e.versions])}." for e in environments}
    return tuple(sorted(lines))

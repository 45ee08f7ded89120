"""Texts of the notes below tables: sizes, devices and versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized

from tcm_lab._utils.environment import Environment
from tcm_lab.errors import LabError, one_of
from tcm_lab.evaluation import RdRecord

WITHOUT_HEADERS = (
    "Rates exclude file headers on both sides, since headers matter more the smaller the image."
)


def need(what: str, values: Sized) -> None:
    """Refuse an empty collection.

    Raises:
        LabError: the collection is empty.
    """
    if not values:
        raise LabError(f"no {what} given")


def count_text(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 image`` or ``24 images``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def images_text(record: RdRecord) -> str:
    """Return the number and the fingerprint of a record's images."""
    return f"{count_text(len(record.points[0].images), 'image')} (set {record.data_fingerprint})"


def size_text(size: Sequence[int]) -> str:
    """Return ``HxW``."""
    return "x".join(map(str, size))


def device_text(environment: Environment) -> str:
    """Return the device, its vector instructions if known, and the number of threads."""
    instructions = f", {environment.instructions}" if environment.instructions else ""
    return f"{environment.device}{instructions}, {count_text(environment.threads, 'thread')}"


def versions_text(versions: Iterable[Mapping[str, str]]) -> str:
    """Return every package with its version, or its different versions, sorted by name."""
    by_name: dict[str, dict[str, None]] = {}
    for mapping in versions:
        for name, version in mapping.items():
            by_name.setdefault(name, {})[version] = None
    return ", ".join(f"{name} {one_of(sorted(by_name[name]))}" for name in sorted(by_name))


def environment_lines(environments: Iterable[Environment]) -> tuple[str, ...]:
    """Return one line per distinct environment: device, threads and versions."""
    lines = {f"{device_text(e)}; {versions_text([e.versions])}." for e in environments}
    return tuple(sorted(lines))

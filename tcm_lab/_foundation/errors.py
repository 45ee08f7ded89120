"""Errors that a user can mend: one message that names the field or file, the value, and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LabError(Exception):
    """A mistake that the user can mend.

    The command line prints its message alone and ends with exit code 2; anything that is not a
    ``LabError`` is a defect of ours and keeps its traceback.
    """


class ConfigError(LabError, ValueError):
    """A configuration that cannot be built: the message names the field, its value and the fix."""


def near(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean …?`` for the known names closest to ``name``, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Did you mean {one_of(close)}?" if close else ""


def one_of(values: Iterable[object]) -> str:
    """Spell ``a, b or c``."""
    words = [str(value) for value in values]
    return " or ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))

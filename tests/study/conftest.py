"""What every test of studies runs under: intervals of few resamples, and looks without a limit."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _few_resamples() -> Iterator[None]:
    """Draw a tenth; how intervals come about is tested where they are made."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tcm_lab.study.summary._SAMPLES", 40)
        yield


@pytest.fixture(scope="module", autouse=True)
def _a_long_look() -> Iterator[None]:
    """Let a dry run see every variant, however slowly a busy machine builds them."""
    module = importlib.import_module("tcm_lab.study.dry_run")  # a function has its name, too
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_LOOK_S", 600.0)
        yield
